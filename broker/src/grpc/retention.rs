//! How far retention has come, on the wire.

use std::time::Duration;

use cabbage_proto::v1;

use crate::store::{Holder, Keep, Partition, PartitionState, RetentionNow};

use super::show::timestamp;

/// What `GetRetention` answers.
pub(super) fn answer(keep: Keep, now: RetentionNow) -> v1::GetRetentionResponse {
    v1::GetRetentionResponse {
        keep: Some(kept(keep)),
        kept_below: now.kept_below.0,
        moved_below: now.moved_below.0,
        partitions: now.partitions.into_iter().map(partition).collect(),
    }
}

fn kept(keep: Keep) -> v1::Keep {
    // Settings are at most a hundred years, which fits.
    let time = |time: Duration| time.try_into().ok();
    v1::Keep {
        succeeded: keep.succeeded.and_then(time),
        // Without an end for successes, no job goes.
        failed: keep.succeeded.and(keep.failed).and_then(time),
        cancelled: keep.succeeded.and(keep.cancelled).and_then(time),
        audit: keep.audit.and_then(time),
        log: time(keep.log),
        log_bytes: keep.log_bytes,
    }
}

fn partition(partition: Partition) -> v1::Partition {
    let Partition { ids, state, bytes, closed, frozen, indexed, moved_jobs, waits_for } = partition;
    let state = match state {
        PartitionState::Ahead => v1::PartitionState::Ahead,
        PartitionState::Open => v1::PartitionState::Open,
        PartitionState::Closed => v1::PartitionState::Closed,
        PartitionState::Moving => v1::PartitionState::Moving,
        PartitionState::Dropping => v1::PartitionState::Dropping,
    };
    v1::Partition {
        first_id: ids.start,
        end_id: ids.end,
        state: state.into(),
        bytes,
        closed_at: closed.map(timestamp),
        frozen_at: frozen.map(timestamp),
        indexed_at: indexed.map(timestamp),
        moved_jobs,
        waits_for: waits_for.into_iter().map(holder).collect(),
    }
}

fn holder(holder: Holder) -> v1::Holder {
    let Holder { pid, user, application, since } = holder;
    v1::Holder { pid, user, application, since: Some(timestamp(since)) }
}
