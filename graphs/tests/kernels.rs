//! CPU kernels against f64 references, on every instruction set of the machine. A process of its own, because forcing an
//! instruction set is global.

mod cpu;
