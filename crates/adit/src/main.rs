//! The one binary: flags, files, wiring, printing.
fn main() {}
