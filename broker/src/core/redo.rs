//! A batch that PostgreSQL refuses is decided again, in halves, until the culprit stands alone.

use std::collections::{HashSet, VecDeque};

use uuid::Uuid;

use super::{
    ask::Ask,
    decide::{Core, Draft},
    effect::{Effect, LinkId, Refusal, Reply},
    event::{End, Event, Settle, SettleFrom},
    questions::{Known, Waiting},
    sessions::Session,
    state::State,
    types::{Now, SessionNo},
};

/// Events that may have to be decided again.
#[derive(Debug, Default)]
pub(super) struct Redo {
    /// Those of the batch in flight.
    in_flight: Vec<Event>,
    /// What it does to sessions, which no row of the log brings back.
    marks: Marks,
    /// It was refused a moment ago.
    was_refused: bool,
    /// Groups to decide again, each as a batch of its own.
    groups: VecDeque<Vec<Event>>,
    /// How many events of such groups wait for a look-up or for ids. Nothing else is decided before they are.
    waiting: usize,
    /// What came in while that goes on.
    later: VecDeque<Event>,
}

/// What a batch does to sessions besides its facts.
#[derive(Debug, Default)]
struct Marks {
    /// Those that end.
    ended: Vec<(SessionNo, Session)>,
    /// How many deliveries go out on which streams.
    sent: Vec<(LinkId, u64)>,
    /// Streams that are closed: their sessions have left them.
    closed: Vec<Effect>,
}

impl Marks {
    fn of(ended: Vec<(SessionNo, Session)>, effects: &[Effect]) -> Self {
        let mut marks = Self { ended, ..Self::default() };
        for effect in effects {
            match effect {
                Effect::Deliver { link, deliveries } => marks.sent.push((*link, deliveries.len() as u64)),
                Effect::Close { .. } => marks.closed.push(effect.clone()),
                _ => {}
            }
        }
        marks
    }
}

impl Redo {
    pub(super) fn is_active(&self) -> bool {
        !self.groups.is_empty() || self.waiting > 0
    }

    pub(super) fn taken(&mut self, events: Vec<Event>, ended: Vec<(SessionNo, Session)>, effects: &[Effect]) {
        self.in_flight = events;
        self.marks = Marks::of(ended, effects);
    }

    pub(super) fn committed(&mut self) {
        self.in_flight.clear();
        self.marks = Marks::default();
    }

    /// Whether a batch was refused since this was last asked.
    pub(super) fn was_refused(&mut self) -> bool {
        std::mem::take(&mut self.was_refused)
    }

    pub(super) fn has_later(&self) -> bool {
        !self.later.is_empty()
    }

    pub(super) fn postpone(&mut self, event: Event) {
        self.later.push_back(event);
    }

    pub(super) fn take_later(&mut self) -> VecDeque<Event> {
        std::mem::take(&mut self.later)
    }
}

impl Core {
    /// The batch in flight was refused, with nothing written: decides everything since `state`, which is that of the
    /// last committed row, again, in halves. `false`: there is no event to blame; the term must end.
    #[must_use]
    pub fn refused(&mut self, now: Now, state: State, message: &str) -> bool {
        let mut culprits = std::mem::take(&mut self.redo.in_flight);
        self.undecide_inbox(&culprits);
        let Draft { events: draft, ended, batch, .. } = std::mem::take(&mut self.draft);
        self.undecide_inbox(&draft);
        for event in draft.into_iter().rev() {
            self.redo.later.push_front(event);
        }
        let undone = [std::mem::take(&mut self.redo.marks), Marks::of(ended, &batch.effects)];
        let closed = self.undo_marks(undone);
        self.leave_undone_streams(now, &culprits);
        self.redo.waiting = 0;
        self.redo.later.extend(std::mem::take(&mut self.starved));
        for waiting in self.questions.reset() {
            match waiting {
                Waiting::Event(event) => self.redo.later.push_back(event),
                // The lock or the schedule is looked at again as its state is rebuilt.
                Waiting::Strict { .. } | Waiting::Tick(_) => {}
            }
        }
        self.taken_row = self.committed_row;
        self.recent.roll_back(self.committed_row);
        self.rebuild(state, now);
        for close in closed {
            self.effect(close);
        }
        self.redo.was_refused = true;
        // Frames whose results are decided again are not acknowledged before they are, whatever comes before them now.
        let again = culprits.iter().chain(&self.redo.later).filter_map(|event| match event {
            Event::Settle(Settle { from: SettleFrom::Link(link, Some(frame)), .. }) => Some((*link, *frame)),
            _ => None,
        });
        for (link, frame) in again.collect::<Vec<_>>() {
            if let Some((_, session)) = self.sessions.of_link(link) {
                session.frames.insert(frame, false);
            }
        }
        let is_blamed = !culprits.is_empty();
        match culprits.len() {
            0 => {}
            1 => {
                let event = culprits.remove(0);
                self.single_out(event, message);
            }
            count => {
                let second = culprits.split_off(count / 2);
                self.redo.groups.push_front(second);
                self.redo.groups.push_front(culprits);
            }
        }
        is_blamed
    }

    /// Sessions are again as they were before the batches that are undone, and due to end where those ended them. Gives
    /// what closes the streams that they have left: no session knows those any more.
    fn undo_marks(&mut self, undone: [Marks; 2]) -> Vec<Effect> {
        let mut closes = Vec::new();
        for Marks { ended, sent, closed } in undone {
            for (link, count) in sent {
                if let Some((_, session)) = self.sessions.of_link(link) {
                    session.unsend(count);
                }
            }
            self.sessions.by_no.extend(ended);
            closes.extend(closed);
        }
        closes
    }

    /// Sessions are on no stream whose `Hello` is decided again. Else what is decided before it would give out jobs there,
    /// and the `Hello`, which cannot name them, would take them back as never received, though they are on their way.
    fn leave_undone_streams(&mut self, now: Now, culprits: &[Event]) {
        for event in culprits.iter().chain(&self.redo.later) {
            if let Event::Hello(hello) = event
                && let Some((_, session)) = self.sessions.of_link(hello.link)
            {
                session.detach(Some(now.mono));
            }
        }
    }

    /// Sessions whose workers have come back, or asked for more time, are not over for that this is not decided yet.
    pub(super) fn hear_waiting(&mut self, now: Now) {
        let named = |event: &Event| match event {
            Event::Hello(hello) => hello.resume.as_ref().map(|resume| (resume.session, resume.secret)),
            Event::Extend { session, secret, .. } => Some((*session, *secret)),
            _ => None,
        };
        let events = self.redo.groups.iter().flatten().chain(&self.redo.later);
        let waiting: HashSet<(Uuid, Uuid)> = events.filter_map(named).collect();
        if waiting.is_empty() {
            return;
        }
        for (no, record) in &self.state.sessions {
            if waiting.contains(&(record.id, record.secret))
                && let Some(session) = self.sessions.by_no.get_mut(no)
            {
                session.heard = now.mono;
                session.lost = session.lost.map(|_| now.mono);
            }
        }
    }

    /// Decides the next group, as a batch of its own.
    pub(super) fn decide_again(&mut self, now: Now) {
        while self.draft.is_empty() && self.redo.waiting == 0 {
            // Events that decided nothing cannot be to blame for what comes after them.
            self.draft.events.clear();
            let Some(group) = self.redo.groups.pop_front() else { break };
            for event in group {
                if !self.decide(now, event, None) {
                    self.redo.waiting += 1;
                }
            }
        }
        self.find_candidates();
    }

    /// Events that waited have what they waited for.
    pub(super) fn decide_answered(&mut self, now: Now, events: Vec<Event>, known: Option<&Known>) {
        // While something is decided again, only its own events can have waited: all others are postponed.
        let counts = self.redo.is_active();
        for event in events {
            let decided = self.decide(now, event, known);
            if counts && decided {
                self.redo.waiting -= 1;
            }
        }
    }

    /// One event alone was refused.
    fn single_out(&mut self, event: Event, message: &str) {
        let refusal = || Refusal::Unrecordable { message: message.into() };
        match event {
            Event::Settle(mut settle) if settle.results.len() > 1 => {
                let second = settle.results.split_off(settle.results.len() / 2);
                let first = Settle { from: part_of(settle.from), results: settle.results };
                let second = Settle { from: settle.from, results: second };
                self.redo.groups.push_front(vec![Event::Settle(second)]);
                self.redo.groups.push_front(vec![Event::Settle(first)]);
            }
            Event::Settle(mut settle) => {
                for (_, end) in &mut settle.results {
                    *end = End::Unrecordable(String::new());
                }
                self.redo.groups.push_front(vec![Event::Settle(settle)]);
            }
            Event::Inbox(mut rows) if rows.len() > 1 => {
                let second = rows.split_off(rows.len() / 2);
                self.redo.groups.push_front(vec![Event::Inbox(second)]);
                self.redo.groups.push_front(vec![Event::Inbox(rows)]);
            }
            Event::Inbox(rows) => {
                if let Some(row) = rows.first().and_then(|row| self.single_out_row(row, message)) {
                    self.redo.groups.push_front(vec![Event::Inbox(vec![row])]);
                }
            }
            Event::Defer(defer) => self.effect(Effect::Reply(defer.call, Reply::Refused(refusal()))),
            Event::Ask(Ask { call, .. }) | Event::Extend { call, .. } => {
                self.effect(Effect::Reply(call, Reply::Refused(refusal())));
            }
            Event::Hello(hello) => self.effect(Effect::Refuse { link: hello.link, error: refusal() }),
            // These bring nothing into a row that could be refused for its content; without them the rest may pass.
            Event::Heard { .. }
            | Event::Capacity { .. }
            | Event::Drain { .. }
            | Event::LinkLost { .. }
            | Event::IdsReserved { .. }
            | Event::Found(_)
            | Event::Fetched(_)
            | Event::Intake(_)
            | Event::Rung
            | Event::QuestionFailed { .. }
            | Event::Retain(_)
            | Event::RaiseFormat(_)
            | Event::Tick => {}
        }
    }
}

/// The first part of a frame: its acknowledgement comes with the last part. A call is answered by its first part, and
/// the results that this leaves out are answered `RETRY_LATER`: repeated, they are found recorded.
fn part_of(from: SettleFrom) -> SettleFrom {
    match from {
        SettleFrom::Link(link, _) => SettleFrom::Link(link, None),
        SettleFrom::Call(call) => SettleFrom::Call(call),
    }
}
