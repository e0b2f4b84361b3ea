//! Compiles the ONNX messages: protox parses, prost generates; no `protoc` is needed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto/onnx.proto");
    let descriptors = protox::compile(["proto/onnx.proto"], ["proto"])?;
    // Byte fields share the buffer they are decoded from, so that weights are copied once.
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
