//! Compiles the service's types without a `protoc` binary.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = "heddle/identity/v1/identity.proto";
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile([file], ["proto"])?;
    tonic_prost_build::configure()
        .skip_debug(["heddle.identity.v1.IssueRequest"])
        .compile_fds(descriptors)?;
    Ok(())
}
