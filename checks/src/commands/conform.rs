//! `kvmmu conform`: what a real kernel did, checked against what the model says it may do.
//!
//! [`kvmmu_conform`] reads traces and judges them; here its words get an exit code.

use std::io::Write;

use kvmmu_conform::refused::{Kind, Refused};
use kvmmu_conform::report::Verdict;
use kvmmu_conform::{file, judge};

use crate::cli::args::{Common, ConformArgs, ConformFormat};
use crate::cli::exit::{Exit, Failure};

/// Runs the command.
///
/// # Errors
///
/// Traces that cannot be read or judged, and an output that cannot be written.
pub fn run(args: &ConformArgs, common: &Common, to: &mut dyn Write) -> Result<Exit, Failure> {
    let name = args.trace.display().to_string();
    let recording = file::read(&args.trace)?;
    let report = judge(&name, &recording, common.verbose)?;
    let text = match args.format {
        ConformFormat::Text => report.text(),
        ConformFormat::Json => serde_json::to_string(&report).map_err(std::io::Error::from)? + "\n",
    };
    to.write_all(text.as_bytes())?;
    Ok(exit(report.verdict()))
}

/// The exit code of a verdict, which the JSON report names, too.
fn exit(verdict: Verdict) -> Exit {
    match verdict {
        Verdict::Explained => Exit::Expected,
        Verdict::Unexplained => Exit::Unexpected,
        Verdict::Inconclusive => Exit::Inconclusive,
        Verdict::NothingToJudge => Exit::Nothing,
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Failure {
        let exit = match refused.kind {
            Kind::Bad => Exit::Usage,
            Kind::Foreign => Exit::Diverged,
        };
        Failure::new(exit, refused.message, refused.help)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_names_the_exit_code_of_the_command() {
        for verdict in [
            Verdict::Explained,
            Verdict::Unexplained,
            Verdict::Inconclusive,
            Verdict::NothingToJudge,
        ] {
            assert_eq!(exit(verdict) as u8, verdict.exit(), "{verdict:?}");
        }
    }
}
