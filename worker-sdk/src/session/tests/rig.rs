//! A session, a broker that says what a test wants, and a clock that stands still until it is moved.

use std::time::Duration;

use bytes::Bytes;
use cabbage_proto::v1::{self, work_request::Frame as Up, work_response::Frame as Down};

use crate::session::{Action, CancelCause, Config, Event, Finish, LinkEnd, LinkId, Session, Slot, Start, TaskLimits};

pub(super) const TERM: (u64, u64) = (4, 44);

pub(super) fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

pub(super) fn config() -> Config {
    Config {
        instance_id: "i".to_owned(),
        worker_name: "w".to_owned(),
        queues: vec!["q".to_owned()],
        tasks: vec![
            TaskLimits { name: "plain".to_owned(), ..TaskLimits::default() },
            TaskLimits { name: "single".to_owned(), max_concurrent: 1, ..TaskLimits::default() },
            TaskLimits { name: "careful".to_owned(), cancel_when_orphaned: true, ..TaskLimits::default() },
            TaskLimits { name: "blocking".to_owned(), blocking: true, ..TaskLimits::default() },
        ],
        labels: std::collections::HashMap::new(),
        concurrency: 4,
        prefetch: 2,
        max_bytes: 0,
        addresses: 1,
        until_caught_up: false,
        seed: 1,
    }
}

#[derive(Default)]
pub(super) struct Seen {
    pub(super) connects: Vec<(LinkId, usize)>,
    pub(super) closed: Vec<LinkId>,
    pub(super) half_closed: Vec<LinkId>,
    pub(super) starts: Vec<Start>,
    pub(super) cancels: Vec<(Slot, CancelCause)>,
    pub(super) aborts: Vec<Slot>,
    pub(super) stopped: bool,
}

pub(super) struct Rig {
    pub(super) session: Session,
    pub(super) now: Duration,
    pub(super) seen: Seen,
    pub(super) link: LinkId,
    /// The broker answers beats.
    pub(super) beats_answered: bool,
    jobs_seq: u64,
}

impl Rig {
    pub(super) fn new(config: Config) -> Self {
        let session = Session::new(config, Duration::ZERO);
        let mut rig = Self {
            session,
            now: Duration::ZERO,
            seen: Seen::default(),
            link: LinkId(0),
            beats_answered: true,
            jobs_seq: 0,
        };
        rig.collect();
        rig
    }

    /// A session that is welcome already.
    pub(super) fn welcome() -> Self {
        Self::welcome_with(config())
    }

    pub(super) fn welcome_with(config: Config) -> Self {
        let mut rig = Self::new(config);
        rig.accept(v1::Welcome::default());
        rig
    }

    fn collect(&mut self) {
        while let Some(action) = self.session.next_action() {
            match action {
                Action::Connect { link, address } => self.seen.connects.push((link, address)),
                Action::Close(link) => self.seen.closed.push(link),
                Action::HalfClose(link) => self.seen.half_closed.push(link),
                Action::Start(start) => self.seen.starts.push(*start),
                Action::Cancel(slot, cause) => self.seen.cancels.push((slot, cause)),
                Action::Abort(slot) => self.seen.aborts.push(slot),
                Action::Stopped => self.seen.stopped = true,
            }
        }
    }

    pub(super) fn event(&mut self, event: Event) {
        self.session.handle(self.now, event);
        self.collect();
    }

    /// Moves the clock and lets the timers go off, each at its time.
    pub(super) fn wait(&mut self, seconds: f64) {
        let until = self.now + secs(seconds);
        while let Some(at) = self.session.next_wakeup(self.now).filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.event(Event::Tick);
            self.pump();
        }
        self.now = until;
    }

    /// Writes beats and the like, as the writer would; the broker answers, so that the stream is not silent.
    fn pump(&mut self) {
        let (link, term) = (self.link, TERM);
        while let Some(frame) = self.session.next_frame(self.now, link) {
            if matches!(frame.frame, Some(Up::Beat(_))) && self.beats_answered {
                self.frame_of(link, term, Down::BeatAck(v1::BeatAck::default()));
            }
        }
    }

    /// The newest connection is reached, greeted and welcomed. Gives back the `Hello`.
    pub(super) fn accept(&mut self, welcome: v1::Welcome) -> v1::Hello {
        let hello = self.greet();
        self.welcome_as(TERM, welcome);
        hello
    }

    /// The newest connection is reached and greeted.
    pub(super) fn greet(&mut self) -> v1::Hello {
        let (link, _) = *self.seen.connects.last().expect("a connection");
        self.event(Event::Connected(link));
        match self.session.next_frame(self.now, link).and_then(|frame| frame.frame) {
            Some(Up::Hello(hello)) => hello,
            other => panic!("no hello: {other:?}"),
        }
    }

    pub(super) fn welcome_as(&mut self, term: (u64, u64), welcome: v1::Welcome) {
        let (link, _) = *self.seen.connects.last().expect("a connection");
        (self.link, self.jobs_seq) = (link, 0);
        let welcome =
            v1::Welcome { protocol: 1, session_id: "s".to_owned(), resume_token: Bytes::from_static(b"r"), ..welcome };
        self.frame_of(link, term, Down::Welcome(welcome));
    }

    pub(super) fn frame(&mut self, frame: Down) {
        self.frame_of(self.link, TERM, frame);
    }

    pub(super) fn frame_of(&mut self, link: LinkId, (term, nonce): (u64, u64), frame: Down) {
        let response = v1::WorkResponse { term, nonce, frame: Some(frame) };
        self.event(Event::Frame(link, Box::new(response)));
    }

    /// Jobs by token; the task by its place in the configuration.
    pub(super) fn jobs(&mut self, jobs: &[(&'static str, u32)]) {
        let frame = self.jobs_frame(jobs);
        self.frame(Down::Jobs(frame));
    }

    pub(super) fn jobs_frame(&mut self, jobs: &[(&'static str, u32)]) -> v1::Jobs {
        self.jobs_seq += 1;
        let names = ["plain", "single", "careful", "blocking", "unknown", "q"];
        let entry =
            |(place, name): (usize, &&str)| v1::DictionaryEntry { number: place as u32 + 1, name: (*name).to_owned() };
        let dictionary = if self.jobs_seq == 1 { names.iter().enumerate().map(entry).collect() } else { Vec::new() };
        let delivery = |(token, task): &(&'static str, u32)| v1::Delivery {
            job_id: 1,
            lease_token: Bytes::from_static(token.as_bytes()),
            task: task + 1,
            queue: 6,
            ..v1::Delivery::default()
        };
        v1::Jobs { seq: self.jobs_seq, dictionary, deliveries: jobs.iter().map(delivery).collect() }
    }

    pub(super) fn slot(&self, token: &str) -> Slot {
        let started = self.seen.starts.iter().rev().find(|start| start.delivery.lease_token == token);
        started.unwrap_or_else(|| panic!("{token} was not started")).slot
    }

    pub(super) fn started(&self) -> Vec<String> {
        self.seen.starts.iter().map(|start| text(&start.delivery.lease_token)).collect()
    }

    pub(super) fn succeed(&mut self, token: &str) {
        let slot = self.slot(token);
        self.event(Event::Finished(slot, Finish::Succeeded(Bytes::new())));
    }

    pub(super) fn finish(&mut self, token: &str, finish: Finish) {
        let slot = self.slot(token);
        self.event(Event::Finished(slot, finish));
    }

    pub(super) fn end_link(&mut self, end: LinkEnd) {
        let link = self.seen.connects.last().expect("a connection").0;
        self.event(Event::Ended(link, end));
    }

    pub(super) fn next(&mut self) -> Option<Up> {
        self.session.next_frame(self.now, self.link).and_then(|frame| frame.frame)
    }

    /// The next frame of results: its number, plain successes, and the others.
    pub(super) fn results(&mut self) -> Option<(u64, Vec<String>, Vec<v1::JobResult>)> {
        loop {
            match self.next()? {
                Up::Results(frame) => {
                    return Some((frame.results_seq, frame.succeeded.iter().map(text).collect(), frame.results));
                }
                Up::Beat(_) | Up::Drain(_) | Up::Capacity(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(super) fn ack(&mut self, recorded_through: u64, exceptions: &[(&'static str, v1::SettleCode)]) {
        let exception = |(token, code): &(&'static str, v1::SettleCode)| v1::SettleResult {
            lease_token: Bytes::from_static(token.as_bytes()),
            code: (*code).into(),
            detail: None,
        };
        let exceptions = exceptions.iter().map(exception).collect();
        self.frame(Down::SettleAck(v1::SettleAck { recorded_through, exceptions, ..Default::default() }));
    }

    pub(super) fn held(&self) -> usize {
        self.session.load().0
    }
}

fn text(token: &Bytes) -> String {
    String::from_utf8(token.to_vec()).expect("tokens of tests are text")
}
