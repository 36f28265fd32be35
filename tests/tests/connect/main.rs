//! Every way to the database, by the programs that users run and with servers that are real: who is let in, with which
//! password, encrypted or not, which of several hosts; and what is said when it does not work.

mod hosts;
mod middlemen;
mod passwords;
mod refusals;
mod run;
mod tls;
