//! Several brokers of one cell: any of them takes calls and workers, and any of them may go.

mod calls;
mod cuts;
mod handover;
mod held;
mod links;
mod load;
mod scene;
mod streams;
mod takeover;
mod versions;
