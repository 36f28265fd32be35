//! Defers one job, runs it, and shows its result. Needs a broker on 127.0.0.1:7733, or at `CABBAGE_BROKER`.

use cabbage_worker::{Client, Context, Task, TaskError, Worker};

struct Hello;

impl Task for Hello {
    const NAME: &'static str = "hello";
    type Args = String;
    type Output = String;
    type Error = TaskError;
    type State = ();

    async fn run(name: String, ctx: Context) -> Result<String, TaskError> {
        Ok(format!("hello {name}, from attempt {} of job {}", ctx.attempt(), ctx.id()))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::var("CABBAGE_BROKER").unwrap_or_else(|_| "127.0.0.1:7733".to_owned());
    let client = Client::new(&address)?;
    let job = client.defer::<Hello>("world".to_owned()).await?;
    Worker::builder(&address).task::<Hello>().build()?.run_until_caught_up().await;
    println!("{}", client.result::<Hello>(job.job_id).await?);
    Ok(())
}
