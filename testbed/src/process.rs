//! A program under test: its output is kept, may be waited for, and it does not outlive its handle.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;

/// Longest wait for a process that was told to stop, before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(40);

/// A running program whose standard output and error go, line by line, to memory and to a log file.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    output: Arc<Output>,
    lines: watch::Receiver<usize>,
    readers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Output {
    lines: Mutex<Vec<String>>,
    log: Mutex<File>,
}

impl Process {
    /// Starts `command`; its output is appended to `DIR/NAME.log`.
    pub fn spawn(name: &str, dir: &Path, mut command: Command) -> Result<Self> {
        let log = File::options().create(true).append(true).open(dir.join(format!("{name}.log")))?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {name}: {command:?}"))?;
        let output = Arc::new(Output { lines: Mutex::default(), log: Mutex::new(log) });
        let (sender, lines) = watch::channel(0);
        let sender = Arc::new(sender);
        let mut readers = Vec::new();
        let stdout = child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>);
        let stderr = child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>);
        for pipe in [stdout, stderr].into_iter().flatten() {
            let (output, sender) = (output.clone(), sender.clone());
            readers.push(std::thread::spawn(move || read_lines(pipe, &output, &sender)));
        }
        let stdin = child.stdin.take();
        Ok(Self { name: name.to_owned(), child, stdin, output, lines, readers })
    }

    /// The name given at start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything printed so far, both streams, in the order in which lines ended.
    pub fn output(&self) -> Vec<String> {
        self.output.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many lines were printed so far: pass it to [`Self::wait_for_line_after`] to see later ones only.
    pub fn mark(&self) -> usize {
        *self.lines.borrow()
    }

    /// Waits for a line that contains `pattern`, also one already printed.
    pub async fn wait_for_line(&self, pattern: &str, limit: Duration) -> Result<String> {
        self.wait_for_line_after(0, pattern, limit).await
    }

    /// As [`Self::wait_for_line`], among the lines after the first `mark`.
    pub async fn wait_for_line_after(&self, mark: usize, pattern: &str, limit: Duration) -> Result<String> {
        let mut lines = self.lines.clone();
        let found = tokio::time::timeout(limit, async {
            loop {
                lines.borrow_and_update();
                if let Some(line) = self.output().into_iter().skip(mark).find(|line| line.contains(pattern)) {
                    return Ok(line);
                }
                if lines.changed().await.is_err() {
                    bail!("{} ended without printing {pattern:?}:\n{}", self.name, self.output().join("\n"));
                }
            }
        });
        found.await.unwrap_or_else(|_| {
            bail!("{} did not print {pattern:?} within {limit:?}:\n{}", self.name, self.output().join("\n"))
        })
    }

    /// Writes to its standard input.
    pub fn write(&mut self, data: &[u8]) -> Result<()> {
        let stdin = self.stdin.as_mut().context("standard input is closed")?;
        stdin.write_all(data)?;
        Ok(stdin.flush()?)
    }

    /// Closes its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id().cast_signed()), signal)?)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it has ended by itself and all of its output is read.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let mut lines = self.lines.clone();
        // The channel closes when both streams have ended, which is when the process has, or is about to.
        let ended = tokio::time::timeout(limit, async { while lines.changed().await.is_ok() {} }).await;
        if ended.is_err() {
            bail!("{} still runs after {limit:?}:\n{}", self.name, self.output().join("\n"));
        }
        let status = tokio::task::block_in_place(|| self.child.wait())?;
        Ok(status)
    }

    /// SIGTERM, and waits for the end. An error when it takes longer than a drain may.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(STOP_LIMIT).await
    }

    /// SIGKILL, and waits for the end.
    pub async fn kill(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGKILL)?;
        self.wait(STOP_LIMIT).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already ended is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.stdin = None;
        for reader in self.readers.drain(..) {
            // A grandchild may hold the pipe open: do not wait for it.
            if reader.is_finished() {
                let _ = reader.join();
            }
        }
    }
}

/// A program that was built with this one: `target/PROFILE/NAME`.
pub fn built(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    // Tests run from target/PROFILE/deps.
    this.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not built: run `cargo build --workspace --bins`"))
}

fn read_lines(pipe: impl Read, output: &Output, count: &watch::Sender<usize>) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    while let Ok(n) = pipe.read_until(b'\n', &mut line) {
        if n == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
        // A full disk must not stop the program under test; the line is still in memory.
        let _ = writeln!(output.log.lock().unwrap_or_else(PoisonError::into_inner), "{text}");
        output.lines.lock().unwrap_or_else(PoisonError::into_inner).push(text);
        count.send_modify(|count| *count += 1);
        line.clear();
    }
}
