//! A schedule: which actor took each step, and with which choice. Human-editable text.
//!
//! `v1-1a2b3c4d:0*3,1*7,0/2` is: thread 0 three steps, thread 1 seven, thread 0 one step with
//! choice 2. The eight hex digits say what the schedule was made for; a mismatch is refused. An
//! actor that is no thread would have a letter before its index, see [`Actor`].

use core::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::actor::Actor;

/// One step of a schedule.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Move {
    /// Who takes the step.
    pub actor: Actor,
    /// Which of the outcomes that the step may have; 0 is the ordinary one.
    pub choice: u8,
}

/// A list of moves.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Schedule(pub Vec<Move>);

/// A schedule and the fingerprint of what it was made for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StampedSchedule {
    /// Hash of format, scenario, missing guards and the sources of model, scenarios and sim.
    pub fingerprint: u32,
    /// The moves.
    pub schedule: Schedule,
}

/// Why a schedule's text is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScheduleError {
    /// Byte offset of the offending token.
    pub offset: usize,
    /// The offending token.
    pub token: String,
    /// What was expected in its place.
    pub expected: &'static str,
}

/// The longest schedule that is read: longer ones are refused rather than allocated.
pub const MOVES_MAX: usize = 1_000_000;

impl Schedule {
    /// How often consecutive moves belong to different actors.
    pub fn context_switches(&self) -> usize {
        self.0.windows(2).filter(|w| w[0].actor != w[1].actor).count()
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_slice();
        let mut first = true;
        while let Some(&head) = rest.first() {
            let run = rest.iter().take_while(|m| **m == head).count();
            rest = &rest[run..];
            if !first {
                f.write_str(",")?;
            }
            first = false;
            write!(f, "{}", head.actor)?;
            if head.choice != 0 {
                write!(f, "/{}", head.choice)?;
            }
            if run > 1 {
                write!(f, "*{run}")?;
            }
        }
        Ok(())
    }
}

/// As text.
impl Serialize for Schedule {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Schedule {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Schedule, D::Error> {
        let text = format!("v1-00000000:{}", String::deserialize(from)?);
        let stamped: StampedSchedule = text.parse().map_err(de::Error::custom)?;
        Ok(stamped.schedule)
    }
}

impl fmt::Display for StampedSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v1-{:08x}:{}", self.fingerprint, self.schedule)
    }
}

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "schedule, character {}: '{}' is not {}",
            self.offset + 1,
            self.token,
            self.expected
        )
    }
}

impl core::error::Error for ScheduleError {}

impl core::str::FromStr for StampedSchedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<StampedSchedule, ScheduleError> {
        let error = |offset: usize, token: &str, expected| ScheduleError {
            offset,
            token: token.chars().take(40).collect(),
            expected,
        };
        let Some(body) = text.strip_prefix("v1-") else {
            let token = text.split_inclusive(['-', ':']).next().unwrap_or("");
            return Err(error(0, token, "'v1-', the schedule format of this version"));
        };
        let Some((digits, moves)) = body.split_once(':') else {
            return Err(error(3, body, "eight hex digits and a colon"));
        };
        let fingerprint = match u32::from_str_radix(digits, 16) {
            Ok(v) if digits.len() == 8 && !digits.starts_with('+') => v,
            _ => return Err(error(3, digits, "eight hex digits")),
        };
        let mut schedule = Schedule::default();
        let mut offset = 3 + digits.len() + 1;
        if moves.is_empty() {
            return Ok(StampedSchedule { fingerprint, schedule });
        }
        for token in moves.split(',') {
            let bad = |expected| error(offset, token, expected);
            let form = "a move: THREAD, THREAD*COUNT, THREAD/CHOICE or THREAD/CHOICE*COUNT";
            let (who, count) = match token.split_once('*') {
                Some((who, n)) => (who, n.parse::<usize>().map_err(|_| bad(form))?),
                None => (token, 1),
            };
            let (actor, choice) = match who.split_once('/') {
                Some((actor, c)) => (actor, c.parse().map_err(|_| bad(form))?),
                None => (who, 0),
            };
            let actor = actor.parse().map_err(|_| bad(form))?;
            if count == 0 || count > MOVES_MAX - schedule.0.len() {
                return Err(bad("a count from 1 to a total of a million moves"));
            }
            schedule.0.extend(core::iter::repeat_n(Move { actor, choice }, count));
            offset += token.len() + 1;
        }
        Ok(StampedSchedule { fingerprint, schedule })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in ["v1-1a2b3c4d:0*3,1*7,0/2", "v1-00000000:", "v1-ffffffff:3/1*2,0"] {
            assert_eq!(text.parse::<StampedSchedule>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn errors_name_the_token_and_its_place() {
        let e = "v1-1a2b3c4d:0*3,x*7".parse::<StampedSchedule>().unwrap_err();
        assert_eq!((e.offset, e.token.as_str()), (16, "x*7"));
        assert!("v2-1a2b3c4d:0".parse::<StampedSchedule>().is_err());
        assert!("v1-1a2b3c4d:0*0".parse::<StampedSchedule>().is_err());
        assert!("v1-1a2b3c4d:0*99999999999".parse::<StampedSchedule>().is_err());
    }

    #[test]
    fn a_kind_of_actor_that_this_version_does_not_have_is_refused_by_name() {
        for (text, offset) in [("f0", 0), ("0*3,f1*2", 4), ("1/2,f0/1,0", 4), ("0,1f", 2)] {
            let e = format!("v1-1a2b3c4d:{text}").parse::<StampedSchedule>().unwrap_err();
            let token = text[offset..].split(',').next().unwrap();
            assert_eq!((e.offset, e.token.as_str()), (12 + offset, token), "{text}");
        }
    }

    #[test]
    fn a_schedule_that_is_too_long_is_an_error_at_the_move_that_makes_it_so() {
        let most = u64::MAX;
        for text in [
            format!("v1-00000000:0,0*{most}"),
            format!("v1-00000000:0,0*{MOVES_MAX}"),
            format!("v1-00000000:0,0*{most}0"),
        ] {
            let e = text.parse::<StampedSchedule>().unwrap_err();
            assert_eq!((e.offset, e.token.as_str()), (14, &text[14..]), "{text}");
        }
        let long = format!("v1-00000000:0*{}", MOVES_MAX - 1).parse::<StampedSchedule>();
        assert_eq!(long.unwrap().schedule.0.len(), MOVES_MAX - 1);
    }
}
