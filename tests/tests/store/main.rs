//! What any store of a cell does, on both of them; and what only PostgreSQL can do wrong.

mod both;
mod cell;
mod commits;
mod formats;
mod functions;
mod inbox;
mod journal;
mod lists;
mod lookups;
mod one_row;
mod packed;
mod parking;
mod plans;
mod retention;
mod schedules;
mod schema;
mod server;
mod takeover;
mod terms;
mod upkeep;
mod verbs;
