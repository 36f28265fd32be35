#![doc = include_str!("../README.md")]

mod codec;

pub use codec::{SizedCodec, SizedEncoder};

/// The messages and services of `cabbage.v1`, generated from `proto/cabbage/v1`.
pub mod v1 {
    #![expect(clippy::pedantic, clippy::all, clippy::allow_attributes, reason = "generated code")]
    tonic::include_proto!("cabbage.v1");
}

/// What brokers say to each other: `cabbage.relay.v1`, generated from `proto/cabbage/relay/v1`.
pub mod relay {
    /// Its first version.
    pub mod v1 {
        #![expect(clippy::pedantic, clippy::allow_attributes, reason = "generated code")]
        tonic::include_proto!("cabbage.relay.v1");
    }
}

/// The encoded descriptor set of every file, for reflection and for tools.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cabbage.binpb"));
