//! Who may open a link, and what brokers show of each other.

use cabbage_proto::{
    relay::v1::{self as relay, link_request::Frame, relay_service_client::RelayServiceClient},
    v1,
};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::scene::{Brokers, defer, soon};

#[tokio::test]
async fn only_a_broker_of_the_cell_opens_a_link() {
    let brokers = Brokers::in_memory(1).await;
    let mut client = RelayServiceClient::new(brokers.channel(0).await);
    let mut link = async |introduction: relay::Introduction| {
        let first = relay::LinkRequest { frame: Some(Frame::Introduction(introduction)) };
        client.link(tokio_stream::iter([first])).await.map(|_| ()).map_err(|status| {
            (status.code(), status.get_details_error_info().map(|info| info.reason).unwrap_or_default())
        })
    };
    let introduction = relay::Introduction {
        min_protocol: 1,
        max_protocol: 1,
        key: vec![7; 16].into(),
        address: "10.0.0.1:7733".into(),
        version: "9".into(),
    };
    let refused = |code, reason: &str| Err((code, reason.to_owned()));
    assert_eq!(link(introduction.clone()).await, refused(Code::PermissionDenied, "RELAY_REFUSED"));
    let newer = relay::Introduction { min_protocol: 2, max_protocol: 3, ..introduction.clone() };
    assert_eq!(link(newer).await, refused(Code::FailedPrecondition, "PROTOCOL_UNSUPPORTED"));
    let key = brokers.store().owner().await.expect("a store").expect("an owner").key;
    let right = relay::Introduction { key: key.0.as_bytes().to_vec().into(), ..introduction };
    assert_eq!(link(right).await, Ok(()));
}

#[tokio::test]
async fn brokers_are_listed_anywhere_with_what_each_does() {
    let brokers = Brokers::in_postgres(3).await;
    brokers.jobs(2).await.defer_job(defer("send")).await.expect("a job");
    for number in 0..3 {
        let listed = soon(async {
            loop {
                let list = brokers.admin(number).await.list_brokers(v1::ListBrokersRequest {}).await;
                let listed = list.expect("a list").into_inner().brokers;
                // A broker that follows says how far it is each second.
                if listed.iter().all(|broker| broker.lag == 0) {
                    return listed;
                }
            }
        })
        .await;
        let addresses: Vec<_> = listed.iter().map(|broker| broker.address.clone()).collect();
        assert_eq!(addresses, [0, 1, 2].map(|number| brokers.address(number)));
        assert_eq!(listed.iter().map(|broker| broker.owner).collect::<Vec<_>>(), [true, false, false]);
        for broker in listed {
            assert_eq!((broker.term, broker.version.as_str()), (1, env!("CARGO_PKG_VERSION")));
            assert!(broker.since.is_some());
        }
    }
}
