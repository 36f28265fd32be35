//! Every method answers, also those that the broker does not serve.

use bytes::Bytes;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::Code;

use crate::{
    raw,
    refused::{Refused, refused},
    scene::Scene,
};

/// Every call with one request, as a path.
fn calls() -> Vec<String> {
    let set = FileDescriptorSet::decode(cabbage_proto::DESCRIPTOR_SET).expect("a descriptor set");
    let mut calls = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in service.method.iter().filter(|method| !method.client_streaming()) {
                calls.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    calls
}

#[tokio::test]
async fn an_empty_request_is_answered_or_refused_in_the_promised_form() {
    let scene = Scene::start().await;
    let calls = calls();
    assert!(calls.len() > 12, "{calls:?}");
    for call in calls {
        if let Err(status) = raw::call(&scene.channel, &call, Bytes::new()).await {
            let refused = Refused::of(&status);
            let fits = match refused.code {
                Code::Unimplemented => refused.reason == "NOT_IMPLEMENTED",
                Code::InvalidArgument => refused.reason == "INVALID_FIELD" && !refused.fields.is_empty(),
                Code::NotFound => true,
                // A broker that is alone has nobody to hand the cell over to.
                Code::FailedPrecondition => refused.reason == "NO_FOLLOWER",
                _ => false,
            };
            assert!(fits, "{call}: {refused:?}");
        }
    }
    scene.stays_well().await;
}

#[tokio::test]
async fn what_does_not_exist_is_unimplemented() {
    let scene = Scene::start().await;
    for call in [
        "/cabbage.v1.JobService/NoSuchCall",
        "/cabbage.v1.WorkerService/Connect",
        "/cabbage.v1.NoSuchService/Call",
        "/cabbage.v2.JobService/DeferJob",
        "/grpc.health.v1.Health/NoSuchCall",
        "/",
    ] {
        refused(raw::call(&scene.channel, call, Bytes::new()).await).is(Code::Unimplemented, "NOT_IMPLEMENTED");
    }
    scene.stays_well().await;
}
