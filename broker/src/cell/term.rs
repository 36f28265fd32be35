//! One term: what is started when the cell was taken, and put away when the term is over.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::{DatabaseClock, Monotonic, Sample},
    core::{decide::Core, event::Event, types::JobId},
    duties::{DutyTask, Horizon, UpkeepTask},
    store::{Store, Tenure},
    telemetry::Metrics,
};

use super::{
    arguments::Arguments,
    follower::{Fold, FollowerThread, ROWS_MAX},
    handle::{CellSettings, Owned, Role},
    inbox::{InboxTask, LOOKS_MAX},
    input::{INPUTS_MAX, Input},
    known_requests::{KnownRequests, load},
    names::Names,
    owner::{End, Owner},
    vigil::Vigil,
    waiters::Waiters,
    writer::{Report, WriterTask},
};

/// Answers of the store that may wait for the owner.
const ANSWERS_MAX: usize = 256;

/// Reports of the writer that may wait for the owner: one batch is in flight at a time, and ticks go between.
const REPORTS_MAX: usize = 4;

/// How long the connections of an ended term may take to let go of it.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// How a term ended that ended as planned: everything that was taken in is committed, and the term is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TermEnd {
    /// The broker stops.
    Stopped,
    /// Another broker is to own the cell.
    HandedOver,
}

/// Serves the cell for one term, until it is told to stop or to hand over, or the term is over (why).
pub(super) async fn serve(
    store: Arc<dyn Store>,
    settings: &CellSettings,
    metrics: &Metrics,
    tenure: Tenure,
    fold: Fold,
    role: &watch::Sender<Role>,
    vigil: &Vigil,
) -> Result<TermEnd, String> {
    let Tenure { term, mut writer, duties } = tenure;
    let mono = Monotonic::start();
    let sent = mono.now();
    let said = writer.tick().await.map_err(|error| error.to_string())?;
    let mut clock = DatabaseClock::new(Sample { said, sent, received: mono.now() });
    let ids = writer.reserve(settings.limits.reserve_ids_min).await.map_err(|error| error.to_string())?;
    let now = clock.now(mono.now());
    let position = fold.position();
    let names = Arc::new(Names::of(fold.state()));
    let mut core = Core::new(fold.state().clone(), position.number, term, settings.limits.clone(), now);
    core.handle(now, Event::IdsReserved { first: JobId(ids.start), end: JobId(ids.end) });

    let over = CancellationToken::new();
    let (inputs_sender, inputs) = mpsc::channel(INPUTS_MAX);
    let (orders, orders_receiver) = mpsc::channel(1);
    let (reports_sender, reports) = mpsc::channel(REPORTS_MAX);
    let (answering, answers) = mpsc::channel(ANSWERS_MAX);
    let (looks, looks_receiver) = mpsc::channel(LOOKS_MAX);
    let (follower, rows) = mpsc::channel(ROWS_MAX);
    let (checkpoints_sender, checkpoints) = mpsc::channel(1);
    let start = Horizon { next_id: JobId(ids.end), next_log: position.number + 1, format: fold.state().format };
    let (horizon, horizon_receiver) = watch::channel(start);

    let duties_stop = CancellationToken::new();
    let duty_inputs = inputs_sender.clone();
    let duty_task = DutyTask {
        duties,
        checkpoints,
        horizon: horizon_receiver.clone(),
        keep: settings.keep,
        record: Box::new(move |bound| {
            // An owner that is too busy, or has ended, is asked again at the next step.
            let _ = duty_inputs.try_send(Input::Frame(vec![Event::Retain(bound)]));
        }),
        stop: duties_stop.clone(),
        metrics: metrics.clone(),
    };
    let duty_reports = reports_sender.clone();
    let duty_task = tokio::spawn(async move {
        if let Some(why) = duty_task.run().await {
            // The owner may have ended before.
            let _ = duty_reports.send(Report::Over(why)).await;
        }
    });
    let upkeep_task = UpkeepTask { upkeep: store.upkeep(), stop: duties_stop.clone() };
    let upkeep_task = tokio::spawn(upkeep_task.run());
    let follower_thread = FollowerThread {
        fold,
        rows,
        checkpoints: checkpoints_sender,
        store: Arc::clone(&store),
        metrics: metrics.clone(),
    };
    follower_thread.spawn().map_err(|error| format!("no thread for the follower: {error}"))?;
    let writer_task = WriterTask {
        writer,
        orders: orders_receiver,
        reports: reports_sender,
        follower: follower.clone(),
        nonce: term.nonce,
        term: term.number,
        mono,
        metrics: metrics.clone(),
    };
    let writer_task = tokio::spawn(writer_task.run());

    let inbox_task = InboxTask {
        inbox: store.inbox(),
        looks: looks_receiver,
        answering: answering.downgrade(),
        metrics: metrics.clone(),
    };
    tokio::spawn(inbox_task.run());

    let known_requests = Arc::new(KnownRequests::default());
    let (to_load, of_store) = (Arc::downgrade(&known_requests), Arc::clone(&store));
    tokio::spawn(load(to_load, of_store, now.db));

    let owner = Owner {
        _over: over.clone().drop_guard(),
        core,
        clock,
        mono,
        store,
        inputs,
        orders,
        reports,
        answers,
        answering,
        looks,
        follower,
        horizon,
        arguments: Arguments::new(settings.arguments_bytes_max),
        names: Arc::clone(&names),
        metrics: metrics.clone(),
        calls: HashMap::new(),
        links: HashMap::new(),
        waiters: Waiters::default(),
        known_requests,
        committing: false,
        ticked: Duration::ZERO,
    };
    tracing::info!(term = term.number, row = position.number, jobs = owner.core.state().jobs.len(), "owns the cell");
    metrics.leads(true);
    let owned = Owned { term, names, over, horizon: horizon_receiver, inputs: inputs_sender.clone() };
    role.send_replace(Role::Owning(owned));

    let mut owner = tokio::spawn(owner.serve());
    let (ended, planned) = tokio::select! {
        ended = &mut owner => (ended, TermEnd::Stopped),
        planned = async {
            tokio::select! {
                () = vigil.stop.cancelled() => TermEnd::Stopped,
                () = vigil.handing_over() => TermEnd::HandedOver,
            }
        } => {
            // Refused only if the owner has ended by itself.
            let _ = inputs_sender.send(Input::Stop).await;
            (owner.await, planned)
        }
    };
    metrics.leads(false);
    metrics.sessions(0);
    role.send_replace(Role::Following(None));
    duties_stop.cancel();
    // Neither of those that write facts is ever cancelled: each ends with its connection.
    if timeout(RELEASE_TIMEOUT, async { tokio::join!(duty_task, writer_task, upkeep_task) }).await.is_err() {
        tracing::warn!("a connection of the ended term still hangs; it is left to its own deadlines");
    }
    match ended {
        Ok(End::Stopped) => {
            tracing::info!(term = term.number, ?planned, "gave the cell back");
            Ok(planned)
        }
        Ok(End::Over(why)) => Err(why),
        Err(panic) => Err(format!("the owner's task ended by a panic, which is a bug: {panic}")),
    }
}
