//! What is looked up together, and what at the same time.

use std::sync::Arc;

use cabbage_broker::core::{
    ask::{Ask, By, Verb},
    decide::Core,
    effect::{CallId, Found, LookUp, Question},
    event::{Defer, DeferItem, Event, OnConflict, Request},
    limits::Limits,
    state::State,
    types::{JobId, Term},
};
use uuid::Uuid;

use crate::rig::{look_up, now, spec};

fn defer(call: u64) -> Event {
    let item = DeferItem { request: None, spec: Arc::new(spec("q")), on_conflict: OnConflict::default() };
    let request = Some(Request { id: format!("call {call}").into(), digest: Uuid::nil() });
    Event::Defer(Defer { call: CallId(call), request, items: vec![item], independent: false })
}

fn cancel(call: u64) -> Event {
    let verb = Verb::Cancel(JobId(call as i64));
    Event::Ask(Ask { call: CallId(call), request: None, by: By::default(), verb })
}

fn look_ups(core: &mut Core) -> Vec<LookUp> {
    let look_up = |question| match question {
        Question::LookUp(keys) => Some(keys),
        Question::Fetch(_) | Question::Look(_) => None,
    };
    core.questions().into_iter().filter_map(look_up).collect()
}

#[test]
fn request_ids_that_come_during_a_look_up_are_gathered_for_one_and_wait_for_no_verb() {
    let mut core = Core::new(State::default(), 1, Term { number: 2, nonce: 2 }, Limits::default(), now());
    core.handle(now(), Event::IdsReserved { first: JobId(100), end: JobId(200) });
    for call in 1..=9 {
        core.handle(now(), cancel(call));
        let asked: Vec<Vec<JobId>> = look_ups(&mut core).into_iter().map(|keys| keys.jobs).collect();
        let expected = if call <= 2 { vec![vec![JobId(call as i64)]] } else { Vec::new() };
        assert_eq!(asked, expected, "verbs have two look-ups at a time");
    }
    core.handle(now(), defer(11));
    let first = look_up(&mut core);
    assert_eq!(first.requests, ["call 11".into()]);
    for call in 12..=14 {
        core.handle(now(), defer(call));
        assert_eq!(look_ups(&mut core), []);
    }
    let found = Found { id: first.id, snapshot: 1, requests: vec![None], ..Found::default() };
    core.handle(now(), Event::Found(found));
    assert_eq!(look_up(&mut core).requests, ["call 12", "call 13", "call 14"].map(Into::into));
}
