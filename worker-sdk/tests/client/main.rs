//! The client against a scripted job service, over a real connection.

mod calls;
mod fold;
mod service;
