//! What the core does with rows of the inbox that the database refuses.

use std::sync::Arc;

use cabbage_broker::core::{
    ask::{AuditRow, By, Verb},
    batch::{Batch, RareRow},
    decide::Core,
    effect::Question,
    event::Event,
    inbox::{InboxRow, Intake, Wish},
    limits::Limits,
    state::State,
    types::Term,
};

use crate::rig::{NOW, now};

/// An owner that has found a pause of a queue in the inbox.
fn core() -> Core {
    let mut core = Core::new(State::default(), 0, Term { number: 1, nonce: 1 }, Limits::default(), now());
    assert!(core.take_batch(now()).is_none_or(|batch| batch.facts.is_empty()), "nothing is known yet");
    let look = |question| match question {
        Question::Look(look) => Some(look),
        Question::LookUp(_) | Question::Fetch(_) => None,
    };
    let look = core.questions().into_iter().find_map(look).expect("a new owner looks into the inbox");
    let by = By { who: "ada".into(), why: "too much".into() };
    let wish = Wish::Ask { verb: Verb::Pause("q".into()), by, unrecordable: None };
    let row = InboxRow { number: 7, written: NOW, wish };
    core.handle(now(), Event::Intake(Intake { id: look.id, rows: vec![Arc::new(row)], ..Intake::default() }));
    core
}

fn audit(batch: &Batch) -> Vec<&AuditRow> {
    let mut rows = Vec::new();
    for row in &batch.rare_rows {
        if let RareRow::Audit(row) = row {
            rows.push(row);
        }
    }
    rows
}

#[test]
fn a_verb_that_cannot_be_recorded_changes_nothing_and_is_recorded_as_refused() {
    let mut core = core();
    let batch = core.take_batch(now()).expect("a verb");
    assert!(matches!(audit(&batch)[..], [AuditRow { refused: None, .. }]), "{batch:?}");
    assert!(core.refused(now(), State::default(), "no such thing"));
    let batch = core.take_batch(now()).expect("the verb again");
    let [row] = audit(&batch)[..] else { panic!("one entry: {batch:?}") };
    assert_eq!((row.verb, &*row.by.who, &*row.by.why), ("pause", "ada", "too much"));
    assert_eq!(row.refused.as_deref(), Some("the database refuses it: no such thing"));
    assert!(batch.facts.is_empty() && core.state().paused.is_empty(), "nothing is paused");
    assert_eq!(batch.inbox.iter().map(|taken| taken.number).collect::<Vec<_>>(), [7], "it leaves the inbox");
}

#[test]
fn a_verb_that_cannot_even_be_recorded_as_refused_stays_in_the_inbox_and_holds_up_nobody() {
    let mut core = core();
    for _ in 0..2 {
        core.take_batch(now()).expect("a verb");
        assert!(core.refused(now(), State::default(), "no"));
    }
    assert!(core.take_batch(now()).is_none_or(|batch| batch.inbox.is_empty()), "it is left alone");
}
