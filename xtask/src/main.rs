//! (docs)
fn main() {}
