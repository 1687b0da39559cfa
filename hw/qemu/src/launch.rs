//! One child under an outer time limit. See the crate's page for the guarantee.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use crate::exit::Failure;
use crate::interrupt;
use crate::lines::Lines;

/// How often the child's end and Ctrl-C are looked for, and how long an unfinished line must rest
/// before it counts as a prompt.
const POLL: Duration = Duration::from_millis(50);
/// How long what a dead child has written may take to arrive.
const DRAIN_MAX: Duration = Duration::from_secs(2);
/// Pieces of output that wait; a child that is faster is held up by its pipe.
const PIECES_MAX: usize = 64;

/// What the child said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Said<'a> {
    /// A line of its standard output (the serial line), without its end.
    Line(&'a str),
    /// The beginning of a line that has not grown for a while: a prompt. The whole line follows as
    /// [`Said::Line`] when it ends.
    Prompt(&'a str),
    /// A line of its standard error.
    Error(&'a str),
}

/// What to do after something was said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step<V> {
    /// Go on.
    Go,
    /// Write this to the child's standard input.
    Send(Vec<u8>),
    /// The verdict is there: end the child.
    End(V),
}

/// How a run ended. In every case the child is dead and reaped.
#[derive(Debug)]
pub enum End<V> {
    /// The callback ended it.
    Verdict(V),
    /// The child ended by itself; all that it said was shown.
    Exited(ExitStatus),
    /// The time limit was hit.
    TimedOut,
    /// Ctrl-C; only after [`interrupt::catch`].
    Interrupted,
}

/// A child that is to be run.
#[derive(Debug)]
pub struct Launch {
    command: Command,
    limit: Duration,
}

/// Where a piece of output comes from.
#[derive(Clone, Copy)]
enum Source {
    Output,
    Error,
}

/// A piece of output; `None`: the stream has ended.
type Piece = (Source, Option<Vec<u8>>);

/// The child; dropping it kills the whole group and reaps the child.
struct Group {
    child: Child,
    reaped: Option<ExitStatus>,
}

impl Launch {
    /// Will run `command` for `limit` at most.
    pub fn new(command: Command, limit: Duration) -> Launch {
        Launch { command, limit }
    }

    /// Runs it. `on_said` gets all that the child says, in order per stream.
    ///
    /// # Errors
    ///
    /// When the child cannot be started.
    pub fn run<V>(
        mut self,
        mut on_said: impl FnMut(Said<'_>) -> Step<V>,
    ) -> Result<End<V>, Failure> {
        let deadline = Instant::now() + self.limit;
        let mut group = self.spawn()?;
        let (sender, pieces) = mpsc::sync_channel(PIECES_MAX);
        if let Some(stream) = group.child.stdout.take() {
            read(Source::Output, stream, sender.clone());
        }
        if let Some(stream) = group.child.stderr.take() {
            read(Source::Error, stream, sender);
        }
        let input = group.child.stdin.take().map(write);
        let mut run = Run {
            output: Lines::default(),
            error: Lines::default(),
            input,
            open: 2,
            on_said: &mut on_said,
        };
        let end = run.until(deadline, &mut group, &pieces);
        // The readers may still wait for room, or for a stream that something else holds open:
        // they end when the channel has gone.
        drop(pieces);
        drop(group);
        Ok(end)
    }

    fn spawn(&mut self) -> Result<Group, Failure> {
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        die_with_us(&mut self.command);
        let child = self.command.spawn().map_err(|error| {
            let program = self.command.get_program().to_string_lossy().into_owned();
            let help = match error.kind() {
                ErrorKind::NotFound => "install it, or put its directory into PATH",
                _ => "see whether this user may run it",
            };
            Failure::usage(format!("cannot run '{program}': {error}"), help)
        })?;
        Ok(Group { child, reaped: None })
    }
}

/// Has the kernel kill the child when the thread that starts it ends: that is the only cover
/// against a SIGKILL of our own.
#[expect(unsafe_code, reason = "std offers no safe way to run code between fork and exec")]
fn die_with_us(command: &mut Command) {
    let attach = || rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // SAFETY: between fork and exec only async-signal-safe functions may run. This is one system
    // call (prctl): it takes no lock and allocates nothing.
    unsafe {
        command.pre_exec(move || attach().map_err(Into::into));
    }
}

/// The state of a run.
struct Run<'f, V> {
    output: Lines,
    error: Lines,
    input: Option<Sender<Vec<u8>>>,
    /// Streams that have not ended.
    open: u8,
    on_said: &'f mut dyn FnMut(Said<'_>) -> Step<V>,
}

impl<V> Run<'_, V> {
    /// Waits for whatever ends the run first.
    fn until(&mut self, deadline: Instant, group: &mut Group, pieces: &Receiver<Piece>) -> End<V> {
        let mut dead: Option<(ExitStatus, Instant)> = None;
        loop {
            if interrupt::interrupted() {
                return End::Interrupted;
            }
            if dead.is_none() {
                dead = group.ended().map(|status| (status, Instant::now() + DRAIN_MAX));
            }
            let until = dead.map_or(deadline, |(_, drained)| drained);
            let now = Instant::now();
            if now >= until || (dead.is_some() && self.open == 0) {
                return match dead {
                    Some((status, _)) => self.last_words().unwrap_or(End::Exited(status)),
                    None => End::TimedOut,
                };
            }
            let said = match pieces.recv_timeout(POLL.min(until - now)) {
                Ok((source, Some(bytes))) => self.take(source, &bytes),
                Ok((_, None)) => {
                    self.open -= 1;
                    None
                }
                Err(RecvTimeoutError::Timeout) => self.prompt(),
                Err(RecvTimeoutError::Disconnected) => {
                    // Both streams have ended; the child has not.
                    thread::sleep(POLL.min(until - now));
                    None
                }
            };
            if let Some(verdict) = said {
                return End::Verdict(verdict);
            }
        }
    }

    /// A piece of output; returns a verdict.
    fn take(&mut self, source: Source, bytes: &[u8]) -> Option<V> {
        let mut complete = Vec::new();
        let lines = match source {
            Source::Output => &mut self.output,
            Source::Error => &mut self.error,
        };
        lines.push(bytes, |line| complete.push(line.to_owned()));
        complete.iter().find_map(|line| self.say(source, line))
    }

    /// What the child had not finished when it ended.
    fn last_words(&mut self) -> Option<End<V>> {
        let mut rest = Vec::new();
        self.output.finish(|line| rest.push((Source::Output, line.to_owned())));
        self.error.finish(|line| rest.push((Source::Error, line.to_owned())));
        rest.iter().find_map(|(source, line)| self.say(*source, line)).map(End::Verdict)
    }

    fn prompt(&mut self) -> Option<V> {
        let text = self.output.prompt()?;
        let step = (self.on_said)(Said::Prompt(&text));
        self.obey(step)
    }

    fn say(&mut self, source: Source, line: &str) -> Option<V> {
        let step = (self.on_said)(match source {
            Source::Output => Said::Line(line),
            Source::Error => Said::Error(line),
        });
        self.obey(step)
    }

    fn obey(&mut self, step: Step<V>) -> Option<V> {
        match step {
            Step::Go => None,
            Step::Send(bytes) => {
                if let Some(input) = &self.input {
                    // A child that no longer reads ends the writer; the run goes on without it.
                    let _ = input.send(bytes);
                }
                None
            }
            Step::End(verdict) => Some(verdict),
        }
    }
}

impl Group {
    /// The child's status, if it has ended; all that it left behind is killed then.
    fn ended(&mut self) -> Option<ExitStatus> {
        if self.reaped.is_none() && self.is_zombie() {
            self.end();
        }
        self.reaped
    }

    /// True if the child has ended and is not reaped yet: its number is still its own.
    fn is_zombie(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.pid().is_some_and(|pid| {
            rustix::process::waitid(WaitId::Pid(pid), options).is_ok_and(|status| status.is_some())
        })
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// Kills the group, then reaps the child: as long as it is not reaped, nobody else can have
    /// its number, which is the group's.
    fn end(&mut self) {
        if self.reaped.is_some() {
            return;
        }
        if let Some(pid) = self.pid() {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
        let _ = self.child.kill();
        self.reaped = self.child.wait().ok();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

/// Reads a stream in a thread of its own.
fn read(source: Source, mut stream: impl Read + Send + 'static, to: SyncSender<Piece>) {
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) if to.send((source, Some(buffer[..n].to_vec()))).is_err() => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let _ = to.send((source, None));
    });
}

/// Writes what it is sent in a thread of its own, so that a child that does not read holds nobody
/// up.
fn write(mut stream: impl Write + Send + 'static) -> Sender<Vec<u8>> {
    let (sender, bytes) = mpsc::channel::<Vec<u8>>();
    thread::spawn(move || {
        for piece in bytes {
            if stream.write_all(&piece).and_then(|()| stream.flush()).is_err() {
                break;
            }
        }
    });
    sender
}
