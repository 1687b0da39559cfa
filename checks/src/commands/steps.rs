//! `kvmmu steps`: every store of a real kernel to its page tables, checked against the protocol.
//!
//! [`kvmmu_steps`] reads recordings and judges them; here its words get an exit code.

use std::io::{self, Write};

use kvmmu_steps::file::Reader;
use kvmmu_steps::judge::judge;
use kvmmu_steps::report::{self, Report, Verdict};
use kvmmu_steps::show;

use crate::cli::args::{ConformFormat, StepsArgs};
use crate::cli::exit::{Exit, Failure};

/// Runs the command.
///
/// # Errors
///
/// Recordings that cannot be read or judged, and an output that cannot be written.
pub fn run(args: &StepsArgs, to: &mut dyn Write) -> Result<Exit, Failure> {
    let reader = Reader::open(&args.recording)?;
    if let Some(range) = &args.print {
        return print(&reader, range, to);
    }
    let judged = judge(&reader)?;
    let report = Report::of(&args.recording.display().to_string(), &reader, judged)?;
    let text = match args.format {
        ConformFormat::Text => report.text(),
        ConformFormat::Json => serde_json::to_string(&report).map_err(io::Error::from)? + "\n",
    };
    to.write_all(text.as_bytes())?;
    Ok(match report.verdict {
        Verdict::Holds => Exit::Expected,
        Verdict::Broken => Exit::Unexpected,
        Verdict::NotDecided => Exit::Inconclusive,
        Verdict::NothingToJudge => Exit::Nothing,
    })
}

/// Prints events.
fn print(reader: &Reader, range: &str, to: &mut dyn Write) -> Result<Exit, Failure> {
    let bounds = range.split_once('-').unwrap_or((range, range));
    let numbers = bounds.0.parse().ok().zip(bounds.1.parse().ok());
    let (from, last): (u64, u64) =
        numbers.filter(|(from, last)| from <= last).ok_or_else(|| {
            let help = "give the numbers of two events: --print 790-840";
            Failure::new(Exit::Usage, format!("'{range}' is no range of events"), help)
        })?;
    let (mut printed, mut written) = (0, Ok(()));
    report::each(reader, (from, last), |number, event, site, trees| {
        if written.is_ok() {
            written = writeln!(to, "{}", show::line(number, event, site, trees));
            printed += 1;
        }
    })?;
    written?;
    if printed == 0 {
        let message = format!("no event from {from} to {last}: there are {}", reader.len());
        return Err(Failure::new(Exit::Nothing, message, "give lower numbers"));
    }
    Ok(Exit::Expected)
}
