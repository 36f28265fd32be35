//! The task that looks into the inbox for the owner, and hears when somebody rings.

use tokio::sync::mpsc;

use crate::{
    core::{event::Event, inbox::Look},
    store::Inbox,
    telemetry::Metrics,
};

/// Looks that may wait: one is under way at a time, and one more if a batch was refused meanwhile.
pub(super) const LOOKS_MAX: usize = 2;

/// Looks when it is told to, until nobody can tell it any more.
pub(super) struct InboxTask {
    pub(super) inbox: Box<dyn Inbox>,
    pub(super) looks: mpsc::Receiver<Look>,
    /// Weak, so that an owner that stops sees when nobody else is about to answer.
    pub(super) answering: mpsc::WeakSender<Event>,
    pub(super) metrics: Metrics,
}

impl InboxTask {
    pub(super) async fn run(mut self) {
        loop {
            let answer = tokio::select! {
                look = self.looks.recv() => match look {
                    Some(look) => self.look(look).await,
                    None => return,
                },
                () = self.inbox.rung() => {
                    self.metrics.woke("inbox");
                    Event::Rung
                }
            };
            let Some(answering) = self.answering.upgrade() else { return };
            // The owner may have ended with its term.
            if answering.send(answer).await.is_err() {
                return;
            }
        }
    }

    async fn look(&mut self, look: Look) -> Event {
        self.inbox.look(look).await.map_or_else(
            |error| {
                tracing::warn!(%error, "the inbox could not be looked into; it is tried again");
                Event::QuestionFailed { id: look.id }
            },
            Event::Intake,
        )
    }
}
