//! The shell around the session: one task that owns all its state, feeds it events and does what it says.
//!
//! It never waits for a handler or for a peer: each stream has its own reading task, each job its own task, and a
//! frame is made only when the transport has room for one.

use std::{collections::BTreeMap, fmt, pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::Endpoint,
};

use super::{
    Drain, Status, Wishes, WorkerHandle, signals,
    stream::{self, StreamEvent},
};
use crate::{
    Attempt, JobInfo,
    clock::Clock,
    handler::{Handler, Report},
    retry,
    session::{Action, CancelCause, Config, Event, Finish, LinkId, Session, Slot, Start},
    site::Site,
};

/// Events of streams that wait for the driver. Readers wait beyond that, and the transport's windows with them.
const WAITING_EVENTS: usize = 64;
/// How many events are taken in before frames are written again.
const EVENTS_AT_ONCE: usize = 16;
const ENDS_AT_ONCE: usize = 4_096;
/// How long a stream that was left may take to end by itself.
const LINGER: Duration = Duration::from_secs(5);

/// What a driver is made of.
pub(super) struct Setup {
    pub(super) config: Config,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) bearer: Option<MetadataValue<Ascii>>,
    /// By the number of the task.
    pub(super) tasks: Vec<TaskSetup>,
    pub(super) drain: Duration,
    pub(super) signals: bool,
    pub(super) shutdown: Option<CancellationToken>,
    pub(super) handle: WorkerHandle,
    pub(super) wished: watch::Receiver<Wishes>,
    pub(super) told: watch::Sender<Status>,
}

/// A task as it is run.
pub(super) struct TaskSetup {
    pub(super) handler: Arc<dyn Handler>,
    pub(super) site: Arc<Site>,
}

pub(super) struct Driver(Setup);

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("config", &self.0.config).finish_non_exhaustive()
    }
}

impl Driver {
    pub(super) fn new(setup: Setup) -> Self {
        Self(setup)
    }

    pub(super) fn stop_when_caught_up(&mut self) {
        self.0.config.until_caught_up = true;
    }

    pub(super) async fn run(self) -> Status {
        let setup = self.0;
        let _signals =
            setup.signals.then(|| AbortOnDrop(tokio::spawn(signals::obey(setup.handle.clone())).abort_handle()));
        let _shutdown = setup.shutdown.clone().map(|token| {
            let handle = setup.handle.clone();
            let obey = async move {
                token.cancelled().await;
                handle.stop();
            };
            AbortOnDrop(tokio::spawn(obey).abort_handle())
        });
        let mut wished = setup.wished.clone();
        wished.mark_changed();
        let (events_to, mut events) = mpsc::channel(WAITING_EVENTS);
        let (ends_to, mut ends) = mpsc::unbounded_channel();
        let clock = Clock::start();
        let session = Session::new(setup.config.clone(), clock.now());
        let mut shell = Shell {
            setup,
            session,
            clock,
            events_to,
            ends_to,
            links: BTreeMap::new(),
            jobs: Vec::new(),
            granted: Wishes::default(),
            told: Status::default(),
        };
        let (mut some_events, mut some_ends) = (Vec::with_capacity(EVENTS_AT_ONCE), Vec::with_capacity(ENDS_AT_ONCE));
        let mut timer = pin!(sleep_until(Instant::now()));
        loop {
            if shell.act() {
                shell.tell();
                return shell.told;
            }
            let now = clock.now();
            let full = shell.write(now);
            shell.tell();
            let wakeup = shell.session.next_wakeup(now).map(|at| clock.instant(at));
            if let Some(at) = wakeup
                && timer.deadline() != at
            {
                timer.as_mut().reset(at);
            }
            tokio::select! {
                biased;
                Ok(()) = wished.changed() => {
                    let wishes = *wished.borrow_and_update();
                    shell.grant(wishes);
                }
                _ = events.recv_many(&mut some_events, EVENTS_AT_ONCE) => {
                    for event in some_events.drain(..) {
                        shell.take(event);
                    }
                }
                _ = ends.recv_many(&mut some_ends, ENDS_AT_ONCE) => {
                    // One turn for the handlers that are about to end as well: they share a frame then.
                    tokio::task::yield_now().await;
                    while some_ends.len() < ENDS_AT_ONCE && let Ok(end) = ends.try_recv() {
                        some_ends.push(end);
                    }
                    for (slot, finish) in some_ends.drain(..) {
                        shell.finished(slot, finish);
                    }
                }
                () = room(full.as_ref()), if full.is_some() => {}
                () = timer.as_mut(), if wakeup.is_some() => shell.session.handle(clock.now(), Event::Tick),
            }
        }
    }
}

/// Resolves when the transport takes another frame, or no more at all.
async fn room(writer: Option<&mpsc::Sender<cabbage_proto::v1::WorkRequest>>) {
    if let Some(writer) = writer {
        let _ = writer.reserve().await;
    }
}

/// Stops a task that nobody waits for.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Link {
    task: AbortOnDrop,
    writer: Option<mpsc::Sender<cabbage_proto::v1::WorkRequest>>,
}

/// A handler that runs.
struct Job {
    info: Arc<JobInfo>,
    task: AbortHandle,
}

struct Shell {
    setup: Setup,
    session: Session,
    clock: Clock,
    events_to: mpsc::Sender<StreamEvent>,
    ends_to: mpsc::UnboundedSender<(Slot, Finish)>,
    links: BTreeMap<LinkId, Link>,
    /// By the number of the slot.
    jobs: Vec<Option<Job>>,
    granted: Wishes,
    told: Status,
}

impl Shell {
    /// Does what the session says. True if everything is done.
    fn act(&mut self) -> bool {
        while let Some(action) = self.session.next_action() {
            match action {
                Action::Connect { link, address } => self.connect(link, address),
                Action::Close(link) => {
                    self.links.remove(&link);
                }
                Action::HalfClose(link) => self.half_close(link),
                Action::Start(start) => self.start(*start),
                Action::Cancel(slot, cause) => self.cancel(slot, cause),
                Action::Abort(slot) => {
                    if let Some(job) = self.job(slot) {
                        job.task.abort();
                    }
                }
                Action::Stopped => return true,
            }
        }
        false
    }

    fn connect(&mut self, link: LinkId, address: usize) {
        let Some(endpoint) = self.setup.endpoints.get(address % self.setup.endpoints.len().max(1)) else {
            return;
        };
        let run = stream::run(link, endpoint.clone(), self.setup.bearer.clone(), self.events_to.clone());
        let task = AbortOnDrop(tokio::spawn(run).abort_handle());
        self.links.insert(link, Link { task, writer: None });
    }

    fn half_close(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        link.writer = None;
        let task = link.task.0.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LINGER).await;
            task.abort();
        });
    }

    fn start(&mut self, start: Start) {
        let Start { slot, task, task_name, queue_name, mut delivery } = start;
        let Some(task) = self.setup.tasks.get(task) else {
            return;
        };
        // Out of the job's own record, so that they go as soon as they are read.
        let args = std::mem::take(&mut delivery.args);
        let job = Arc::new(JobInfo::new(delivery, task_name, queue_name, task.site.clone()));
        let report = Report::new(slot, self.ends_to.clone());
        let attempt = Attempt::new(job.clone(), args);
        let running = Job { info: job, task: task.handler.clone().start(attempt, report) };
        if self.jobs.len() <= slot.index() {
            self.jobs.resize_with(slot.index() + 1, || None);
        }
        self.jobs[slot.index()] = Some(running);
    }

    fn cancel(&mut self, slot: Slot, cause: CancelCause) {
        let Some(job) = self.job(slot) else {
            return;
        };
        job.info.cancel(cause);
        if cause == CancelCause::Timeout
            && let Some(error) = retry::judge_timeout(&job.info)
        {
            self.session.handle(self.clock.now(), Event::TimeoutJudged(slot, Box::new(error)));
        }
    }

    fn job(&self, slot: Slot) -> Option<&Job> {
        self.jobs.get(slot.index())?.as_ref()
    }

    fn finished(&mut self, slot: Slot, finish: Finish) {
        if let Some(job) = self.jobs.get_mut(slot.index()) {
            *job = None;
        }
        self.session.handle(self.clock.now(), Event::Finished(slot, finish));
    }

    fn take(&mut self, event: StreamEvent) {
        let event = match event {
            StreamEvent::Connected(id, writer) => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.writer = Some(writer);
                }
                Event::Connected(id)
            }
            StreamEvent::Frame(id, frame) => Event::Frame(id, frame),
            StreamEvent::Ended(id, end) => {
                self.links.remove(&id);
                Event::Ended(id, end)
            }
        };
        self.session.handle(self.clock.now(), event);
    }

    /// Writes while there is something to say and room for it. Gives back a writer that is full.
    fn write(&mut self, now: Duration) -> Option<mpsc::Sender<cabbage_proto::v1::WorkRequest>> {
        let mut full = None;
        for (&id, link) in &self.links {
            let Some(writer) = &link.writer else { continue };
            loop {
                match writer.try_reserve() {
                    Ok(room) => match self.session.next_frame(now, id) {
                        Some(frame) => room.send(frame),
                        None => break,
                    },
                    Err(mpsc::error::TrySendError::Full(())) => {
                        full = Some(writer.clone());
                        break;
                    }
                    Err(mpsc::error::TrySendError::Closed(())) => break,
                }
            }
        }
        full
    }

    fn grant(&mut self, wishes: Wishes) {
        let now = self.clock.now();
        if wishes.paused != self.granted.paused {
            self.session.handle(now, Event::Pause(wishes.paused));
        }
        if let Some(drain) = wishes.stop
            && self.granted.stop.is_none()
        {
            let time = match drain {
                Drain::Default => self.setup.drain,
                Drain::Within(time) => time,
            };
            self.session.handle(now, Event::Stop(time));
        }
        if wishes.stop_now && !self.granted.stop_now {
            self.session.handle(now, Event::StopNow);
        }
        self.granted = wishes;
    }

    fn tell(&mut self) {
        let (held, running) = self.session.load();
        let status = Status {
            connected: self.session.is_welcome(),
            stopping: self.session.is_stopping(),
            held,
            running,
            counters: self.session.counters(),
        };
        if status != self.told {
            self.told = status;
            self.setup.told.send_replace(status);
        }
    }
}

impl Drop for Shell {
    /// The worker is gone, so nobody would take the results.
    fn drop(&mut self) {
        for job in self.jobs.iter().flatten() {
            job.task.abort();
        }
    }
}
