//! The worker processes of this crate's own tests, whose executable has a `main` of its own.

fn main() {
    toolsmith_sandbox::worker_main_if_asked();
    eprintln!("toolsmith-sandbox-worker: started by a pool only");
    std::process::exit(2);
}
