//! Twenty-six jobs with one lock: however many workers there are, the letters come in order (C9).
//! Needs a broker on 127.0.0.1:7733, or at `CABBAGE_BROKER`.

use std::{sync::Mutex, time::Duration};

use cabbage_worker::{Batch, Client, Context, NewJob, RetryPolicy, Task, TaskError, Worker};

#[derive(Default)]
struct Paper(Mutex<String>);

struct WriteLetter;

impl Task for WriteLetter {
    const NAME: &'static str = "write_letter";
    type Args = char;
    type Output = ();
    type Error = TaskError;
    type State = Paper;

    fn configure(job: NewJob, _: &char) -> NewJob {
        job.queue("alphabet").lock("paper").retry(RetryPolicy::attempts(3).wait(Duration::from_secs(1)))
    }

    async fn run(letter: char, ctx: Context<Paper>) -> Result<(), TaskError> {
        // Without the lock, the quick letters would overtake the slow ones.
        tokio::time::sleep(Duration::from_millis(u64::from(letter) * 7 % 40)).await;
        let mut paper = ctx.state().0.lock().map_err(|_| TaskError::new("Poisoned", "somebody dropped the pen"))?;
        paper.push(letter);
        println!("{paper}");
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::var("CABBAGE_BROKER").unwrap_or_else(|_| "127.0.0.1:7733".to_owned());
    let letters: Batch = ('a'..='z').map(NewJob::of::<WriteLetter>).collect();
    Client::new(&address)?.defer_all(letters).await?;
    let worker = Worker::builder(&address).queues(["alphabet"]).state(Paper::default()).task::<WriteLetter>();
    worker.concurrency(8).build()?.run_until_caught_up().await;
    Ok(())
}
