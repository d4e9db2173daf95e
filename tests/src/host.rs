//! Driving the host processes of `src/bin/host.rs`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use crate::Environment;

/// A host process with a module loaded.
pub struct Host {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// What came of asking a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It answered.
    Said(String),
    /// It was killed by this signal.
    Killed(i32),
}

impl Host {
    /// Starts a host and has it load `path` with a compiler's engine.
    pub fn load(env: &Environment, path: &Path, compiler: &str) -> Host {
        Host::try_load(env, path, compiler)
            .unwrap_or_else(|refused| panic!("loading {}: {refused:?}", path.display()))
    }

    /// The same; if the host doesn't get that far, how it ended.
    pub fn try_load(env: &Environment, path: &Path, compiler: &str) -> Result<Host, Answer> {
        let mut command = env.command(env.binary("host"));
        command.arg(path).arg(compiler).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the host");
        let input = child.stdin.take().expect("its input");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let mut host = Host { child, input, output };
        match host.line() {
            Answer::Said(line) if line == "loaded" => Ok(host),
            other => Err(other),
        }
    }

    /// Asks: `call NAME ARG`, `fresh NAME ARG` (in a new instance), or `stat`.
    pub fn ask(&mut self, question: &str) -> Answer {
        // A host that died is noticed when its answer is read.
        let _ = writeln!(self.input, "{question}").and_then(|()| self.input.flush());
        self.line()
    }

    /// Asks, and has to be answered.
    pub fn said(&mut self, question: &str) -> String {
        match self.ask(question) {
            Answer::Said(line) => line,
            killed => panic!("{question}: {killed:?}"),
        }
    }

    fn line(&mut self) -> Answer {
        let mut line = String::new();
        let read = self.output.read_line(&mut line).expect("the host's output");
        if read == 0 {
            let status = self.child.wait().expect("the host's end");
            return Answer::Killed(status.signal().unwrap_or(-1));
        }
        Answer::Said(line.trim_end().to_owned())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
