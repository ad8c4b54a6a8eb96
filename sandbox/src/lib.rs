//! Python in wasmer.
