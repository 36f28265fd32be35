//! Compiles the `.proto` files without a system `protoc`, and keeps the descriptor set for reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=cabbage");
    println!("cargo:rerun-if-changed=google");
    let files = ["job", "job_service", "worker_service", "queue_service", "schedule_service", "admin_service"]
        .map(|name| format!("cabbage/v1/{name}.proto"))
        .into_iter()
        .chain(["cabbage/relay/v1/relay_service.proto".to_owned()]);
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("cabbage.binpb"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::SizedCodec")
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .compile_fds(descriptors)?;
    Ok(())
}
