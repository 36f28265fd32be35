//! Calls that may be made again when their answer is lost (C2): those that change nothing, and those that carry a request
//! id. A call that comes to a relay without one is given one there, before it goes to the owner.

use std::borrow::Cow;

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::{Message as _, decode_length_delimiter, encode_length_delimiter};
use uuid::Uuid;

use crate::grpc::MESSAGE_BYTES_MAX;

/// What precedes a message in a body of gRPC: whether it is compressed, and its length.
pub(super) const PREFIX_BYTES: usize = 5;

/// The calls that carry a request id, each in the field of the same number.
const NAMED: [&str; 13] = [
    DEFER_BATCH,
    "/cabbage.v1.JobService/CancelJob",
    "/cabbage.v1.JobService/DeferJob",
    "/cabbage.v1.JobService/DeleteJob",
    "/cabbage.v1.JobService/RescheduleJob",
    "/cabbage.v1.JobService/RetryJob",
    "/cabbage.v1.QueueService/PauseQueue",
    "/cabbage.v1.QueueService/ResumeQueue",
    "/cabbage.v1.ScheduleService/DeleteSchedule",
    "/cabbage.v1.ScheduleService/PauseSchedule",
    "/cabbage.v1.ScheduleService/PutSchedule",
    "/cabbage.v1.ScheduleService/ResumeSchedule",
    "/cabbage.v1.ScheduleService/RunSchedule",
];

/// The call whose items have ids of their own, if they are independent.
const DEFER_BATCH: &str = "/cabbage.v1.JobService/BatchDeferJobs";

/// Calls that say by what they hold that they are the same.
const SAME_AGAIN: [&str; 2] = ["/cabbage.v1.WorkerService/SettleJobs", "/cabbage.v1.WorkerService/ExtendSession"];

/// What the methods begin with that change nothing.
const READS: [&str; 5] = ["Get", "List", "Show", "Wait", "Preview"];

/// The field of the items of a batch.
const ITEMS: usize = 1;

/// How a field's value is encoded: the lowest bits of its key.
const KEY_BITS: u32 = 3;
const VARINT: usize = 0;
const EIGHT_BYTES: usize = 1;
const LENGTH_DELIMITED: usize = 2;
const FOUR_BYTES: usize = 5;

/// Whether a call whose answer was lost may be made again: it changes nothing, or says itself that it is the same.
pub(super) fn may_be_repeated(path: &str, body: &[u8]) -> bool {
    reads(path)
        || SAME_AGAIN.contains(&path)
        || named(path, body).is_some_and(|message| matches!(message, Cow::Borrowed(_)))
}

/// Whether a call changes nothing.
pub(super) fn reads(path: &str) -> bool {
    path.rsplit_once('/').is_some_and(|(_, method)| READS.iter().any(|reads| method.starts_with(reads)))
}

/// The body of a call with a request id of our own, where it can carry one and has none. What cannot be read, or would be
/// too large with it, stays as it is.
pub(super) fn numbered(path: &str, body: Bytes) -> Bytes {
    let Some(Cow::Owned(message)) = named(path, &body) else { return body };
    if message.len() > MESSAGE_BYTES_MAX {
        return body;
    }
    let mut numbered = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    numbered.put_u8(0);
    // It is no longer than a message may be.
    numbered.put_u32(message.len() as u32);
    numbered.extend_from_slice(&message);
    numbered.freeze()
}

/// The message of a body with every request id that belongs to it: as it came, if all were there. `None`: none belongs to
/// it, or it cannot be read.
fn named<'a>(path: &str, body: &'a [u8]) -> Option<Cow<'a, [u8]>> {
    let (prefix, message) = body.split_at_checked(PREFIX_BYTES)?;
    // What is compressed is not looked into.
    if !NAMED.contains(&path) || prefix[0] != 0 {
        return None;
    }
    if path == DEFER_BATCH && Batch::decode(message).ok()?.independent {
        return with_named_items(message);
    }
    with_id(message)
}

/// What every call that changes something, and every item of a batch, has in common.
#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, tag = "2")]
    request_id: String,
}

/// Whether the items of a batch have answers of their own.
#[derive(Clone, PartialEq, prost::Message)]
struct Batch {
    #[prost(bool, tag = "3")]
    independent: bool,
}

/// A call, or an item, with its request id.
fn with_id(message: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !Named::decode(message).ok()?.request_id.is_empty() {
        return Some(Cow::Borrowed(message));
    }
    // Of a field that comes twice, the last one counts.
    let id = Named { request_id: Uuid::new_v4().to_string() }.encode_to_vec();
    Some(Cow::Owned([message, &id].concat()))
}

/// A batch, each of whose items has its request id. All other fields stay as they are, known here or not.
fn with_named_items(message: &[u8]) -> Option<Cow<'_, [u8]>> {
    let (mut rest, mut named, mut added) = (message, Vec::with_capacity(message.len()), false);
    while !rest.is_empty() {
        let field = rest;
        // A key is encoded as a length is.
        let key = decode_length_delimiter(&mut rest).ok()?;
        let value_bytes = match key & ((1 << KEY_BITS) - 1) {
            VARINT => decode_length_delimiter(&mut rest).map(|_| 0).ok()?,
            EIGHT_BYTES => 8,
            LENGTH_DELIMITED => decode_length_delimiter(&mut rest).ok()?,
            FOUR_BYTES => 4,
            _ => return None,
        };
        let (value, after) = rest.split_at_checked(value_bytes)?;
        rest = after;
        match (key == (ITEMS << KEY_BITS | LENGTH_DELIMITED)).then(|| with_id(value)) {
            Some(Some(Cow::Owned(item))) => {
                added = true;
                encode_length_delimiter(key, &mut named).ok()?;
                encode_length_delimiter(item.len(), &mut named).ok()?;
                named.extend_from_slice(&item);
            }
            Some(None) => return None,
            Some(Some(Cow::Borrowed(_))) | None => named.extend_from_slice(&field[..field.len() - rest.len()]),
        }
    }
    Some(if added { Cow::Owned(named) } else { Cow::Borrowed(message) })
}

#[cfg(test)]
mod tests {
    use cabbage_proto::v1;

    use super::*;

    fn body(message: &impl prost::Message) -> Bytes {
        let message = message.encode_to_vec();
        [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat().into()
    }

    fn read<M: prost::Message + Default>(body: &Bytes) -> M {
        let (prefix, message) = body.split_at(PREFIX_BYTES);
        assert_eq!(prefix[1..], (message.len() as u32).to_be_bytes());
        M::decode(message).expect("a message")
    }

    fn defer(request_id: &str) -> v1::DeferJobRequest {
        let job = v1::JobSpec { task: "send".into(), ..v1::JobSpec::default() };
        v1::DeferJobRequest { request_id: request_id.into(), job: Some(job) }
    }

    fn item(request_id: &str) -> v1::BatchItem {
        let v1::DeferJobRequest { job, request_id } = defer(request_id);
        v1::BatchItem { job, request_id }
    }

    #[test]
    fn only_what_is_safe_is_repeated() {
        assert!(may_be_repeated("/cabbage.v1.JobService/GetJob", &[]));
        assert!(may_be_repeated("/cabbage.v1.WorkerService/SettleJobs", &[]));
        assert!(may_be_repeated("/cabbage.v1.JobService/DeferJob", &body(&defer("one"))));
        assert!(!may_be_repeated("/cabbage.v1.JobService/DeferJob", &body(&defer(""))));
        let hand_over = v1::HandOverRequest { address: "10.0.0.1:7733".into(), reason: "an upgrade".into() };
        assert!(!may_be_repeated("/cabbage.v1.AdminService/HandOver", &body(&hand_over)));
        let of = |items: &[&str]| v1::BatchDeferJobsRequest {
            items: items.iter().map(|id| item(id)).collect(),
            independent: true,
            ..v1::BatchDeferJobsRequest::default()
        };
        assert!(may_be_repeated(DEFER_BATCH, &body(&of(&["one", "two"]))));
        assert!(!may_be_repeated(DEFER_BATCH, &body(&of(&["one", ""]))));
    }

    #[test]
    fn a_call_without_an_id_is_given_one_that_nothing_else_has() {
        let path = "/cabbage.v1.JobService/DeferJob";
        let bare = body(&defer(""));
        let numbered = [numbered(path, bare.clone()), numbered(path, bare)];
        assert!(may_be_repeated(path, &numbered[0]));
        let [one, other] = numbered.map(|body| read::<v1::DeferJobRequest>(&body));
        assert_eq!((one.job, other.job), (defer("").job, defer("").job));
        assert!(!one.request_id.is_empty() && one.request_id != other.request_id);
    }

    #[test]
    fn a_call_with_an_id_and_one_that_cannot_have_one_stay_as_they_are() {
        for (path, body) in [
            ("/cabbage.v1.JobService/DeferJob", body(&defer("one"))),
            (
                "/cabbage.v1.AdminService/HandOver",
                body(&v1::HandOverRequest { address: "10.0.0.1:7733".into(), reason: "an upgrade".into() }),
            ),
            ("/cabbage.v1.WorkerService/SettleJobs", body(&v1::SettleJobsRequest::default())),
            ("/cabbage.v1.JobService/DeferJob", Bytes::from_static(b"\0\0\0\0\x02\x0a\x7f")),
            ("/cabbage.v1.JobService/DeferJob", Bytes::from_static(b"\x01\0\0\0\0")),
        ] {
            assert_eq!(numbered(path, body.clone()), body, "{path}");
        }
    }

    #[test]
    fn a_call_that_an_id_would_make_too_large_stays_as_it_is() {
        let path = "/cabbage.v1.JobService/DeferJob";
        let mut call = defer("");
        let room = MESSAGE_BYTES_MAX - body(&call).len();
        // Some bytes go into the lengths of what is this long.
        call.job.as_mut().expect("a job").args = vec![b'x'; room - 5].into();
        let large = body(&call);
        assert_eq!(numbered(path, large.clone()), large);
    }

    #[test]
    fn each_item_of_an_independent_batch_is_given_an_id_of_its_own() {
        let batch = v1::BatchDeferJobsRequest {
            items: vec![item(""), item("mine"), item("")],
            independent: true,
            ..v1::BatchDeferJobsRequest::default()
        };
        let mut bare = batch.encode_to_vec();
        // A field that this version does not know, of every kind.
        let unknown = b"\xa0\x06\x96\x01\xa2\x06\x02hi\xa1\x0612345678\xa5\x061234";
        bare.extend_from_slice(unknown);
        let bare: Bytes = [&[0][..], &(bare.len() as u32).to_be_bytes(), &bare].concat().into();
        let numbered = numbered(DEFER_BATCH, bare);
        assert!(may_be_repeated(DEFER_BATCH, &numbered) && numbered.ends_with(unknown));
        let named: v1::BatchDeferJobsRequest = read(&numbered);
        assert!(named.independent && named.request_id.is_empty());
        let ids: Vec<_> = named.items.iter().map(|item| item.request_id.as_str()).collect();
        assert!(ids[1] == "mine" && !ids[0].is_empty() && !ids[2].is_empty() && ids[0] != ids[2], "{ids:?}");
        assert!(named.items.iter().all(|named| named.job == item("").job));
    }

    #[test]
    fn a_batch_as_a_whole_is_given_one_id() {
        let batch = v1::BatchDeferJobsRequest { items: vec![item(""); 2], ..v1::BatchDeferJobsRequest::default() };
        let named: v1::BatchDeferJobsRequest = read(&numbered(DEFER_BATCH, body(&batch)));
        assert!(!named.request_id.is_empty());
        assert_eq!(named.items, batch.items);
    }

    #[test]
    fn every_call_with_a_request_id_is_known_here_and_has_it_in_the_same_place() {
        let files = prost_types::FileDescriptorSet::decode(cabbage_proto::DESCRIPTOR_SET).expect("our own");
        let files = || files.file.iter().filter(|file| file.package() == "cabbage.v1");
        let message = |name: &str| {
            let mut messages = files().flat_map(|file| &file.message_type);
            messages.find(|message| name.ends_with(&format!(".{}", message.name()))).expect("a message of a method")
        };
        let mut carry = Vec::new();
        for service in files().flat_map(|file| &file.service) {
            for method in &service.method {
                let id = message(method.input_type()).field.iter().find(|field| field.name() == "request_id");
                if let Some(id) = id {
                    assert_eq!(id.number(), 2, "{}", method.name());
                    carry.push(format!("/cabbage.v1.{}/{}", service.name(), method.name()));
                }
            }
        }
        carry.sort_unstable();
        assert_eq!(carry, NAMED);
        let batch = message(".BatchDeferJobsRequest");
        let field = |name: &str| batch.field.iter().find(|field| field.name() == name).expect("a field").number();
        assert_eq!((field("items"), field("independent")), (ITEMS as i32, 3));
    }
}
