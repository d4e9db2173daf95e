//! Work that takes long, and that no thread which answers the kernel is to wait for.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Threads: as many payloads are looked through at once.
const BACKGROUND_THREADS: usize = 2;

type Job = Box<dyn FnOnce() + Send>;

/// Does jobs in the order in which they come, some at a time.
#[derive(Default)]
pub(crate) struct Background(OnceLock<Sender<Job>>);

impl Background {
    /// Has a job done. If no thread can be had, here and now.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        if let Err(unsent) = self.0.get_or_init(start).send(Box::new(job)) {
            (unsent.0)();
        }
    }
}

fn start() -> Sender<Job> {
    let (sender, jobs) = channel::<Job>();
    let jobs = Arc::new(Mutex::new(jobs));
    for _ in 0..BACKGROUND_THREADS {
        let jobs = jobs.clone();
        let run = move || {
            while let Some(job) = next(&jobs) {
                job();
            }
        };
        if let Err(e) = std::thread::Builder::new().name("background".into()).spawn(run) {
            log::error!("starting a thread: {e}");
        }
    }
    sender
}

fn next(jobs: &Mutex<Receiver<Job>>) -> Option<Job> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_is_done() {
        let background = Background::default();
        let (sender, done) = channel();
        for number in 0..100 {
            let sender = sender.clone();
            background.run(move || sender.send(number).unwrap());
        }
        let mut numbers: Vec<i32> = done.iter().take(100).collect();
        numbers.sort();
        assert!(numbers.into_iter().eq(0..100));
    }
}
