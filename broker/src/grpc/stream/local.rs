//! A worker's stream in the broker that owns the cell: its reader and its writer, from `Hello` to the end.

use std::{collections::VecDeque, sync::Arc};

use cabbage_proto::v1;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    cell::{Cell, LINK_MESSAGES_MAX, LinkMessage, Owned},
    grpc::hello::{self, Introduced},
};

use super::{
    Incoming, Ledger, Out, StreamSettings,
    deliveries::Deliveries,
    reader::{Reader, ReaderEnd},
    writer::{Ended, StreamWriter},
};

/// Beats and the end, from the reader to the writer. A beat that finds no room is not answered.
const LOCAL_MESSAGES_MAX: usize = 64;

/// Serves a worker that has said `Hello` until its stream ends, or the term does. An error is for the worker.
pub(super) async fn serve(
    cell: &Cell,
    owned: &Owned,
    settings: &StreamSettings,
    hello: v1::Hello,
    incoming: &mut Incoming,
    out: &Out,
) -> Result<Ended, Status> {
    let link = cell.new_link();
    let Introduced { hello, receive_bytes_max, worker_name, sdk } = hello::introduced(link, hello)?;
    tracing::info!(link = link.0, worker_name, sdk, resumes = hello.resume.is_some(), "a worker connects");
    let ledger = Arc::new(Ledger::default());
    let (to_writer, outbox) = mpsc::channel(LINK_MESSAGES_MAX);
    let (local_sender, local) = mpsc::channel(LOCAL_MESSAGES_MAX);
    let gone = CancellationToken::new();
    let writer = StreamWriter {
        out: out.clone(),
        outbox,
        local,
        gone: gone.clone(),
        owned: owned.clone(),
        store: Arc::clone(cell.store()),
        ledger: Arc::clone(&ledger),
        deliveries: Deliveries::new(Arc::clone(&owned.names), receive_bytes_max),
        settings: settings.clone(),
        control: VecDeque::new(),
        waiting: VecDeque::new(),
        ready: 0,
        held_bytes: 0,
        after_jobs: VecDeque::new(),
        welcomed: false,
    };
    let mut writer = tokio::spawn(writer.run());
    // Refused only if the term has ended, which the writer learns too.
    let _ = owned.open(Box::new(hello), to_writer).await;
    let settings = settings.clone();
    let reader =
        Reader { link, owned: owned.clone(), ledger, local: local_sender, settings, results_seq: 0, heard: None };
    let mut silent = false;
    let ended = tokio::select! {
        ended = &mut writer => ended,
        end = reader.run(incoming) => {
            match end {
                ReaderEnd::Gone => gone.cancel(),
                ReaderEnd::Silent => {
                    silent = true;
                    gone.cancel();
                }
                ReaderEnd::Told(local, status) => {
                    // The writer may have ended by itself.
                    let _ = local.send(LinkMessage::End(Box::new(status))).await;
                }
            }
            writer.await
        }
    };
    let ended = ended.unwrap_or_else(|error| {
        tracing::error!(%error, "the writer of a stream ended by a panic: this is a bug");
        Ended::Gone
    });
    // Refused only if the term has ended.
    let _ = owned.ended(link, !silent && !matches!(ended, Ended::NotReading)).await;
    tracing::info!(link = link.0, worker_name, reason = ended.word(), "a worker's stream ended");
    Ok(ended)
}
