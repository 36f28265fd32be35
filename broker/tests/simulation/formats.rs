//! Brokers of two versions: the format of the log is raised at random, and whoever does not read it must stay out.

use cabbage_broker::{
    core::{batch::Batch, event::Event, fact::Fact, state::State, types::Format},
    store::{
        StoreError,
        format::{HIGHEST, LOWEST, decode_facts, decode_state, encode_facts},
    },
};
use rand::Rng;

use crate::world::World;

impl World {
    /// Every broker that follows reads what the owner reads: the format is raised; now and then the owner dies over it.
    pub(crate) fn format_acts(&mut self) {
        self.tell(Event::RaiseFormat(self.known));
        if self.rng.random_bool(0.3) {
            self.broker_acts();
            if self.in_flight.as_ref().is_some_and(raises) {
                self.reached.note("takeover with a raise in flight");
                self.take_over(false);
            }
        }
    }

    /// What was committed, as its bytes have it, and as a broker of each version reads them. The follower has folded it.
    pub(crate) fn check_format(&mut self, batch: &Batch) {
        let format = self.follower.format;
        assert_eq!(batch.format, format, "a row has the format of the state after it");
        assert!(format <= self.known, "an owner writes nothing that it does not read");
        let bytes = encode_facts(&batch.facts, format);
        let (found, read) = decode_facts(&bytes, HIGHEST).expect("a row can be read");
        assert_eq!((found, &read), (format, &*batch.facts), "a row of the log says what was decided");
        match decode_facts(&bytes, LOWEST) {
            Ok((_, read)) => assert!(format == LOWEST && !raises(batch) && read == *batch.facts),
            Err(StoreError::FormatTooNew { found, known }) => assert!(found == format && known < found),
            Err(error) => panic!("a row of a higher format is refused for that it is: {error}"),
        }
        if raises(batch) {
            self.reached.note("format raised");
        }
    }

    /// A broker of either version tries to take over, and knows only what is written. Gives which formats it reads.
    pub(crate) fn successor(&mut self) -> Format {
        let tries = if self.rng.random_bool(0.3) { LOWEST } else { HIGHEST };
        match self.read_by(tries) {
            Ok(state) => {
                assert!(self.follower.format <= tries, "an older broker does not follow a raised log");
                assert_eq!(state.difference(&self.follower), None, "checkpoint and log give the state");
                if tries < HIGHEST {
                    self.reached.note("older broker took over");
                }
                tries
            }
            Err(StoreError::FormatTooNew { found, known }) => {
                assert_eq!((found, known), (self.follower.format, LOWEST), "only an older broker is refused");
                self.reached.note("older broker refused");
                HIGHEST
            }
            Err(error) => panic!("what was written can be read, or is too high: {error}"),
        }
    }

    /// The state that checkpoint and log give to a broker that reads formats up to this one.
    pub(crate) fn read_by(&self, known: Format) -> Result<State, StoreError> {
        let (checkpoint, from) = &self.checkpoint;
        let mut state = decode_state(checkpoint, known)?;
        for row in self.tables.follow(*from, u32::MAX).expect("the log is what it was") {
            let (_, facts) = decode_facts(&encode_facts(&row.facts, row.format), known)?;
            for fact in &facts {
                state.apply(fact);
            }
        }
        Ok(state)
    }
}

fn raises(batch: &Batch) -> bool {
    batch.facts.iter().any(|fact| matches!(fact, Fact::FormatRaised { .. }))
}
