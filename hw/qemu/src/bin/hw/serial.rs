//! What the image says on its serial line: the verdict, outcomes, figures.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use kvmmu_qemu::Failure;

/// How the image begins its last line.
const VERDICT: &str = "kvmmu-hw: verdict ";
/// How lines of outcomes and of figures begin.
const OUTCOME: &str = "{\"kvmmu-outcome\":";
const FIGURE: &str = "{\"kvmmu-figure\":";

/// Reads lines.
pub(crate) struct Serial {
    outcomes: Option<Sink>,
    figures: Option<Sink>,
    /// The verdict's code.
    pub(crate) verdict: Option<u8>,
    /// Lines that should have been JSON.
    pub(crate) garbled: Vec<String>,
    /// The last lines.
    pub(crate) last: Vec<String>,
}

/// Where lines of a kind go.
struct Sink {
    path: String,
    file: BufWriter<File>,
}

impl Sink {
    fn create(path: &Path) -> Result<Sink, Failure> {
        let name = path.display().to_string();
        let file = File::create(path).map_err(|error| {
            Failure::usage(format!("cannot write {name}: {error}"), "name another file")
        })?;
        Ok(Sink { path: name, file: BufWriter::new(file) })
    }
}

/// How many lines are kept for messages.
const LAST: usize = 5;

impl Serial {
    /// Lines of each kind go to these files.
    pub(crate) fn new(outcomes: Option<&Path>, figures: Option<&Path>) -> Result<Serial, Failure> {
        Ok(Serial {
            outcomes: outcomes.map(Sink::create).transpose()?,
            figures: figures.map(Sink::create).transpose()?,
            verdict: None,
            garbled: Vec::new(),
            last: Vec::new(),
        })
    }

    /// Takes a line; true if it is to be shown.
    pub(crate) fn line(&mut self, line: &str) -> Result<bool, Failure> {
        let sink = if line.starts_with(OUTCOME) {
            &mut self.outcomes
        } else if line.starts_with(FIGURE) {
            &mut self.figures
        } else {
            if let Some(verdict) = line.strip_prefix(VERDICT) {
                self.verdict = verdict.split(':').next().and_then(|code| code.parse().ok());
            }
            if self.last.len() == LAST {
                self.last.remove(0);
            }
            self.last.push(line.to_owned());
            return Ok(true);
        };
        if serde_json::from_str::<serde_json::Value>(line).is_err() {
            self.garbled.push(line.to_owned());
            return Ok(true);
        }
        if let Some(sink) = sink {
            writeln!(sink.file, "{line}").map_err(|error| cannot_write(&sink.path, &error))?;
        }
        Ok(false)
    }

    /// Nothing more comes.
    pub(crate) fn end(&mut self) -> Result<(), Failure> {
        for sink in [&mut self.outcomes, &mut self.figures].into_iter().flatten() {
            sink.file.flush().map_err(|error| cannot_write(&sink.path, &error))?;
        }
        Ok(())
    }
}

fn cannot_write(path: &str, error: &std::io::Error) -> Failure {
    Failure::usage(format!("cannot write {path}: {error}"), "is the disk full?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_found_among_garbage() {
        let mut serial = Serial::new(None, None).unwrap();
        for line in ["\u{fffd}\0kvmmu", "kvmmu-hw: verdict", "kvmmu-hw: verdict x: y"] {
            assert!(serial.line(line).unwrap());
            assert_eq!(serial.verdict, None);
        }
        assert!(serial.line("kvmmu-hw: verdict 1: 3 as expected, 1 unexpected").unwrap());
        assert_eq!(serial.verdict, Some(1));
    }

    #[test]
    fn json_is_kept_apart_and_garbled_json_is_told() {
        let mut serial = Serial::new(None, None).unwrap();
        assert!(!serial.line(r#"{"kvmmu-outcome":1,"outcome":"nothing"}"#).unwrap());
        assert!(serial.garbled.is_empty());
        assert!(serial.line(r#"{"kvmmu-outcome":1,"outc"#).unwrap());
        assert_eq!(serial.garbled.len(), 1);
    }

    #[test]
    fn files_that_cannot_be_written_are_named() {
        let Err(failure) = Serial::new(Some(Path::new("/nowhere/outcomes")), None) else {
            panic!("there is no such directory")
        };
        assert!(failure.to_string().contains("/nowhere/outcomes"), "{failure}");
    }
}
