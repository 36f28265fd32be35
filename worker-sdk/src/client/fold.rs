//! Concurrent defers of one client, folded into one call at a time.
//!
//! A defer that finds no other on its way to a broker is sent at once, by itself. Those that come until it is answered
//! wait, and are the next call together: a batch of independent items, in which each keeps its own request id and
//! gets its own answer (C2). There is no timer: a busy client makes large calls, an idle one small ones.
//!
//! Only the way to the broker is shared. Each caller has its own deadline and tries again by its own rules; one that
//! gives up takes its job with it, if it was not sent. While it is on its way, no other try is made: one call is given up
//! only by all of its callers, so the earlier try could be done after the later one was refused.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cabbage_proto::v1;
use prost::Message as _;
use tokio::{
    sync::oneshot,
    task::yield_now,
    time::{Instant, timeout_at},
};
use tonic::{Code, Status};

use super::{
    Deferred,
    batch::answers,
    call::{Calls, Patience, Service, no_answer_in_time},
};
use crate::error::Answer;

/// Jobs of one call: the broker's limit of a batch.
const CALL_JOBS_MAX: usize = 1_000;
/// Bytes of the jobs of one call, so that the message stays below the 4 MiB that a broker reads.
const CALL_BYTES_MAX: usize = (4 << 20) - (16 << 10);
/// What an item takes in a message besides itself, in bytes, at most.
const ITEM_FRAME_BYTES: usize = 8;

/// The defers to one broker.
#[derive(Default)]
pub(super) struct Lane {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// In the order in which they came. Each belongs to a caller who waits, so there are never more than those.
    waiting: VecDeque<Waiting>,
    next_ticket: u64,
    /// A task sends what waits, until nothing does.
    is_driven: bool,
}

/// A defer that was not sent yet.
struct Waiting {
    ticket: u64,
    item: v1::BatchItem,
    bytes: usize,
    until: Instant,
    told: oneshot::Sender<Fate>,
}

/// What became of one try.
enum Fate {
    Answered(Result<Deferred, Answer>),
    /// The call was refused as a whole, which says nothing about any single job in it.
    SendAlone,
}

/// One try of one defer.
pub(super) async fn defer(
    calls: &Arc<Calls>,
    broker: usize,
    item: &v1::BatchItem,
    patience: Patience,
) -> Result<Deferred, Answer> {
    let (told, fate) = oneshot::channel();
    let bytes = item.encoded_len() + ITEM_FRAME_BYTES;
    let lane = calls.lane(broker);
    let until = patience.of_try;
    let (place, starts) = lane.join(Waiting { ticket: 0, item: item.clone(), bytes, until, told });
    if starts {
        // A task of its own, since a caller who gives up must not take the others' call with it.
        tokio::spawn(drive(Arc::clone(calls), broker));
    }
    match place.fate(fate, patience).await? {
        Fate::Answered(answer) => answer,
        Fate::SendAlone => alone(calls, broker, item.clone(), until).await,
    }
}

/// A defer as a call of its own.
async fn alone(calls: &Calls, broker: usize, item: v1::BatchItem, until: Instant) -> Result<Deferred, Answer> {
    let request = v1::DeferJobRequest { job: item.job, request_id: item.request_id };
    let defer = |mut service: Service, request| async move { service.defer_job(request).await };
    let v1::DeferJobResponse { job_id, repeated_call, existing_job } =
        calls.attempt(broker, until, request, defer).await?;
    Ok(Deferred { job_id, repeated_call, existing_job })
}

/// Sends what waits, one call after the other, until nothing does.
async fn drive(calls: Arc<Calls>, broker: usize) {
    let mut driving = Driving { lane: calls.lane(broker), is_done: false };
    while let Some(batch) = driving.lane.next_call() {
        send(&calls, broker, batch).await;
        // Those who have just been answered may want to send again, and are then part of the next call.
        yield_now().await;
    }
    driving.is_done = true;
}

/// Makes one call, and tells its callers what came of it. A call that all of them have given up is given up too, so that
/// nobody waits behind it.
async fn send(calls: &Calls, broker: usize, mut batch: Vec<Waiting>) {
    let sent = Instant::now();
    if batch.len() == 1 {
        let mut only = batch.remove(0);
        tokio::select! {
            answer = alone(calls, broker, only.item, only.until) => drop(only.told.send(Fate::Answered(answer))),
            () = only.told.closed() => calls.given_up(broker, sent, only.until),
        }
        return;
    }
    // Nobody's answer is cut short by another's deadline.
    let until = batch.iter().map(|waiting| waiting.until).max().expect("a call has a job");
    let (items, mut callers): (Vec<_>, Vec<_>) = batch.into_iter().map(|waiting| (waiting.item, waiting.told)).unzip();
    let request = v1::BatchDeferJobsRequest { items, request_id: String::new(), independent: true };
    let defer = |mut service: Service, request| async move { service.batch_defer_jobs(request).await };
    let answer = tokio::select! {
        answer = calls.attempt(broker, until, request, defer) => answer,
        () = all_gone(&mut callers) => return calls.given_up(broker, sent, until),
    };
    let fates = match answer {
        Ok(response) => fates(response, callers.len()),
        Err(answer) if answer.code == Code::InvalidArgument => callers.iter().map(|_| Fate::SendAlone).collect(),
        Err(answer) => callers.iter().map(|_| Fate::Answered(Err(answer.clone()))).collect(),
    };
    for (told, fate) in callers.into_iter().zip(fates) {
        // One who has gone meanwhile is not missed.
        let _ = told.send(fate);
    }
}

async fn all_gone(callers: &mut [oneshot::Sender<Fate>]) {
    for told in callers {
        told.closed().await;
    }
}

/// To each caller its own.
fn fates(response: v1::BatchDeferJobsResponse, callers: usize) -> Vec<Fate> {
    let answers = answers(response).into_iter().map(Some).chain(std::iter::repeat_with(|| None));
    let fate = |(answer, number): (Option<Result<_, Answer>>, usize)| {
        let answer = answer.unwrap_or_else(|| Err(too_few_answers()));
        Fate::Answered(answer.map_err(|answer| answer.of_its_own(number)))
    };
    answers.zip(0..callers).map(fate).collect()
}

/// What a broker that forgets an item leaves: nobody knows whether it was done, so it is asked again.
fn too_few_answers() -> Answer {
    Answer::of(&Status::unknown("a batch with too few answers"))
}

impl Lane {
    /// A defer waits for its turn. `true`: somebody must drive.
    fn join(&self, mut waiting: Waiting) -> (Place<'_>, bool) {
        let mut state = self.lock();
        waiting.ticket = state.next_ticket;
        state.next_ticket += 1;
        let place = Place { lane: self, ticket: waiting.ticket };
        state.waiting.push_back(waiting);
        (place, !std::mem::replace(&mut state.is_driven, true))
    }

    /// What the next call has room for. `None`: nothing waits, and nobody drives any more.
    fn next_call(&self) -> Option<Vec<Waiting>> {
        let mut state = self.lock();
        let mut bytes = 0;
        let fits = state.waiting.iter().take(CALL_JOBS_MAX).take_while(|waiting| {
            bytes += waiting.bytes;
            bytes <= CALL_BYTES_MAX
        });
        // One that is larger than any call is refused by the broker, by itself.
        let count = fits.count().max(1).min(state.waiting.len());
        if count == 0 {
            state.is_driven = false;
            return None;
        }
        Some(state.waiting.drain(..count).collect())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a caller in the lane. Dropping it takes back what was not sent.
struct Place<'a> {
    lane: &'a Lane,
    ticket: u64,
}

impl Place<'_> {
    /// What becomes of the try. If its time is over before it was sent, it is taken back; if it is on its way then, its
    /// call is waited for, and that ends with the time of the last of its callers.
    async fn fate(self, mut fate: oneshot::Receiver<Fate>, patience: Patience) -> Result<Fate, Answer> {
        let told = match timeout_at(patience.of_try, &mut fate).await {
            Ok(told) => told,
            Err(_) if self.take_back() => return Err(no_answer_in_time()),
            Err(_) => timeout_at(patience.of_call, fate).await.map_err(|_| no_answer_in_time())?,
        };
        told.map_err(|_| Answer::of(&Status::cancelled("the runtime that made the call has ended")))
    }

    /// Takes the defer back. `false`: it was sent.
    fn take_back(&self) -> bool {
        let mut state = self.lane.lock();
        let at = state.waiting.binary_search_by_key(&self.ticket, |waiting| waiting.ticket);
        at.is_ok_and(|at| state.waiting.remove(at).is_some())
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.take_back();
    }
}

/// The task that drives. If it ends before its work does, with its runtime, the next caller starts another.
struct Driving<'a> {
    lane: &'a Lane,
    is_done: bool,
}

impl Drop for Driving<'_> {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let mut state = self.lane.lock();
        state.is_driven = false;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for waiting in waiting {
            let mut answer = Answer::of(&Status::unavailable("the runtime that made the calls has ended"));
            answer.never_sent = true;
            let _ = waiting.told.send(Fate::Answered(Err(answer)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    /// A defer with arguments of so many bytes joins.
    fn join(lane: &Lane, bytes: usize) -> (Place<'_>, oneshot::Receiver<Fate>, bool) {
        let (told, fate) = oneshot::channel();
        let item = v1::BatchItem::default();
        let (place, starts) = lane.join(Waiting { ticket: 0, item, bytes, until: Instant::now(), told });
        (place, fate, starts)
    }

    fn tickets(lane: &Lane) -> Option<Vec<u64>> {
        Some(lane.next_call()?.iter().map(|waiting| waiting.ticket).collect())
    }

    #[test]
    fn the_first_caller_starts_the_driver_and_the_others_wait_for_it() {
        let lane = Lane::default();
        let starts = [join(&lane, 1), join(&lane, 1)].map(|(_, _, starts)| starts);
        assert_eq!(starts, [true, false]);
        assert_eq!(tickets(&lane), None);
        assert!(join(&lane, 1).2, "nobody drives any more");
    }

    #[test]
    fn one_call_has_at_most_a_thousand_jobs() {
        let lane = Lane::default();
        let _callers: Vec<_> = (0..1_001).map(|_| join(&lane, 1)).collect();
        assert_eq!(tickets(&lane).map(|tickets| tickets.len()), Some(1_000));
        assert_eq!(tickets(&lane), Some(vec![1_000]));
        assert_eq!(tickets(&lane), None);
    }

    #[test]
    fn one_call_stays_below_the_limit_of_a_message_and_what_is_larger_goes_alone() {
        let lane = Lane::default();
        let sizes = [CALL_BYTES_MAX - 1, 1, 1, CALL_BYTES_MAX + 1, 1];
        let _callers: Vec<_> = sizes.into_iter().map(|bytes| join(&lane, bytes)).collect();
        let calls: Vec<_> = std::iter::from_fn(|| tickets(&lane)).collect();
        assert_eq!(calls, [vec![0, 1], vec![2], vec![3], vec![4]]);
    }

    #[test]
    fn a_caller_who_gives_up_before_the_call_takes_its_job_back() {
        let lane = Lane::default();
        let (first, second, third) = (join(&lane, 1), join(&lane, 1), join(&lane, 1));
        drop(second);
        assert_eq!(tickets(&lane), Some(vec![0, 2]));
        drop((first, third));
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_is_over_is_taken_back_and_one_that_was_sent_is_waited_for() {
        let lane = Lane::default();
        let (sent, sents_fate, _) = join(&lane, 1);
        let call = lane.next_call().expect("a call");
        let (unsent, unsents_fate, _) = join(&lane, 1);
        let now = Instant::now();
        let patience = Patience { of_try: now, of_call: now + Duration::from_mins(1) };
        assert!(unsent.fate(unsents_fate, patience).await.is_err());
        assert_eq!(tickets(&lane), None);
        let answer = async {
            sleep(Duration::from_secs(9)).await;
            for waiting in call {
                drop(waiting.told.send(Fate::SendAlone));
            }
        };
        let (fate, ()) = tokio::join!(sent.fate(sents_fate, patience), answer);
        assert!(matches!(fate, Ok(Fate::SendAlone)));
        // Nobody waits beyond the deadline of the whole call.
        let (sent, fate, _) = join(&lane, 1);
        let _call = lane.next_call();
        assert!(sent.fate(fate, patience).await.is_err());
        assert_eq!(Instant::now(), patience.of_call);
    }

    #[tokio::test]
    async fn a_driver_that_ends_too_soon_leaves_nobody_waiting() {
        let lane = Lane::default();
        let (_place, fate, _) = join(&lane, 1);
        drop(Driving { lane: &lane, is_done: false });
        let Ok(Fate::Answered(Err(answer))) = fate.await else { panic!("an answer") };
        assert!(answer.never_sent);
        assert_eq!(answer.next_step(), (true, false));
        assert!(join(&lane, 1).2, "the next caller drives");
    }
}
