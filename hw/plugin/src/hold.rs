//! Holding a CPU at an instruction until another CPU has come somewhere.
//!
//! CPUs take turns in one thread, so a callback that waits would stop all of them. So the CPU waits
//! in the machine: the instruction becomes a jump to a few others, which give the turn to the next
//! CPU for as long as a word beside them is not zero. They stand where a function was that nobody
//! calls here ([`ROOM`]). The word is written each time before it is loaded, for the CPU that does.

use std::str::FromStr;

use kvmmu_steps::functions;

use crate::code::Code;
use crate::patch::{self, Old};
use crate::symbols::Symbols;

/// A function of every kernel that is long, and that no /init of ours calls.
const ROOM: &str = "ptrace_request";
/// A CPU goes on that has waited for so many turns of its own, or events of others: turns are short
/// while others sleep, and long while guests run.
const TURNS_MAX: u32 = 5000;
const EVENTS_MAX: u64 = 1000;
/// No place needs more bytes of room.
const GATE_MAX: u64 = 48;
/// So often a place is passed without a stop at most.
const SKIP_MAX: u32 = 32;

/// Where CPUs are held, and until when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hold {
    name: String,
    function: String,
    at: Old,
    until: Vec<Until>,
    /// A CPU is held each time, however often that was for nothing.
    always: bool,
}

/// What another CPU does meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Until {
    /// It enters a guest.
    Enter,
    /// It returns from this function, one of [`functions::NAMES`].
    Return(u8),
}

impl FromStr for Hold {
    type Err = String;

    /// `NAME:FUNCTION:AT:UNTIL`, AT as in a patch, UNTIL `enter` or `return/FUNCTION`, or any of
    /// several, with `|` between them; `always/` before all of that holds a CPU each time.
    fn from_str(text: &str) -> Result<Hold, String> {
        let read = || {
            let words: Vec<&str> = text.split(':').collect();
            let &[name, function, at, until] = &words[..] else { return None };
            let each = until.strip_prefix("always/");
            let (until, always) = (each.unwrap_or(until), each.is_some());
            let until = until.split('|').map(Until::read).collect::<Option<_>>()?;
            let (name, function) = (name.to_owned(), function.to_owned());
            Some(Hold { name, function, at: Old::read(at)?, until, always })
        };
        read().ok_or_else(|| format!("'{text}' is no place to hold: NAME:FUNCTION:AT:UNTIL"))
    }
}

impl Until {
    fn read(text: &str) -> Option<Until> {
        match text.split_once('/') {
            None if text == "enter" => Some(Until::Enter),
            Some(("return", name)) => functions::number(name).map(Until::Return),
            _ => None,
        }
    }
}

/// Where a CPU may be held.
#[derive(Clone, Debug)]
struct Gate {
    /// The instruction that waits, and where it was moved to.
    pc: u64,
    moved: u64,
    /// The instruction that loads the word.
    load: u64,
    /// The word.
    word: u64,
}

/// A CPU that is held.
#[derive(Clone, Copy, Debug)]
struct Held {
    cpu: u8,
    turns: u32,
    since: u64,
    /// What it waits for has come.
    over: bool,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// A CPU is held from now on.
    Begins,
    /// It goes on: what it waited for has come, or not.
    Ends { over: bool },
}

/// Who waits: one CPU at a time. After it has waited for nothing the place is passed without a
/// stop, once, then more often.
#[derive(Clone, Debug, Default)]
struct Queue {
    held: Option<Held>,
    /// The place is never passed without a stop.
    always: bool,
    skip: u32,
    in_vain: u32,
    /// How often a CPU was held, and how often for nothing.
    times: (u64, u64),
}

impl Queue {
    /// A CPU is there: it waits or not, and what that means.
    fn pass(&mut self, cpu: u8, events: u64) -> (bool, Option<Step>) {
        match &mut self.held {
            Some(held) if held.cpu == cpu => {
                held.turns += 1;
                let over = held.over;
                if !over && held.turns < TURNS_MAX && events < held.since + EVENTS_MAX {
                    return (true, None);
                }
                self.held = None;
                self.times.1 += u64::from(!over);
                self.in_vain = if over { 0 } else { self.in_vain + 1 };
                self.skip = ((1 << self.in_vain.min(16)) - 1).min(SKIP_MAX);
                if self.always {
                    self.skip = 0;
                }
                (false, Some(Step::Ends { over }))
            }
            Some(_) => (false, None),
            None if self.skip > 0 => {
                self.skip -= 1;
                (false, None)
            }
            None => {
                self.held = Some(Held { cpu, turns: 0, since: events, over: false });
                self.times.0 += 1;
                (true, Some(Step::Begins))
            }
        }
    }

    /// What is waited for happens on a CPU.
    fn see(&mut self, cpu: u8) {
        if let Some(held) = self.held.as_mut().filter(|held| held.cpu != cpu) {
            held.over = true;
        }
    }
}

/// A place in a kernel that was prepared.
#[derive(Clone, Debug)]
pub(crate) struct Holding {
    hold: Hold,
    gates: Vec<Gate>,
    queue: Queue,
}

impl Holding {
    /// Prepares places in a kernel. Of those that have one name, the first that it has counts.
    pub(crate) fn prepare(
        holds: &[Hold],
        symbols: &Symbols,
        code: Code<'_>,
    ) -> Result<Vec<Holding>, String> {
        let mut all: Vec<Holding> = Vec::new();
        if holds.is_empty() {
            // A kernel without the room is none the worse.
            return Ok(all);
        }
        let mut missing = None;
        let (mut room, end) =
            symbols.range(ROOM).ok_or_else(|| format!("this kernel has no {ROOM}"))?;
        for hold in holds {
            if all.iter().any(|known| known.hold.name == hold.name) {
                continue;
            }
            let mut gates = Vec::new();
            let places = match hold.at.find(&hold.function, symbols, code) {
                Ok(places) => places,
                Err(error) => {
                    missing = missing.or(Some((&hold.name, error)));
                    continue;
                }
            };
            for pc in places {
                if room + GATE_MAX > end {
                    return Err(format!("{ROOM} is too short for all places"));
                }
                let gate = gate(pc, room, code);
                let gate = gate.ok_or_else(|| {
                    format!("no CPU can be held at {}: {:x?}", symbols.site(pc), hold.at)
                })?;
                room = gate.word + 8;
                gates.push(gate);
            }
            let queue = Queue { always: hold.always, ..Queue::default() };
            all.push(Holding { hold: hold.clone(), gates, queue });
        }
        match missing {
            Some((name, why)) if all.iter().all(|known| known.hold.name != *name) => Err(why),
            _ => Ok(all),
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.hold.name
    }

    /// The instruction that waits, if this one loads the word for it.
    pub(crate) fn is_at(&self, load: u64) -> Option<u64> {
        self.gates.iter().find(|gate| gate.load == load).map(|gate| gate.pc)
    }

    /// Where the instruction came from that was moved here.
    pub(crate) fn home(&self, moved: u64) -> Option<u64> {
        self.gates.iter().find(|gate| gate.moved == moved).map(|gate| gate.pc)
    }

    /// Where instructions were moved to.
    pub(crate) fn moved(&self) -> impl Iterator<Item = u64> + '_ {
        self.gates.iter().map(|gate| gate.moved)
    }

    /// A CPU is at the place, before it loads the word; so many events there are.
    pub(crate) fn pass(&mut self, cpu: u8, load: u64, events: u64, code: Code<'_>) -> Option<Step> {
        let gate = self.gates.iter().find(|gate| gate.load == load)?;
        let word = gate.word;
        let (waits, step) = self.queue.pass(cpu, events);
        write(code, word, u32::from(waits))?;
        step
    }

    /// A CPU does what others may wait for.
    pub(crate) fn see(&mut self, cpu: u8, what: Until) {
        if self.hold.until.contains(&what) {
            self.queue.see(cpu);
        }
    }

    /// What is said of it in the end.
    pub(crate) fn summary(&self) -> String {
        let (times, nothing) = self.queue.times;
        format!("held {} {times} times, {nothing} of them for nothing", self.name())
    }
}

fn write(code: Code<'_>, at: u64, word: u32) -> Option<()> {
    match code {
        Code::Text(_) => code.write_word(at, word),
        Code::Walked { .. } => code.write_bytes(at, &word.to_le_bytes()),
    }
}

/// Makes the instruction at `pc` one at which a CPU may be held, by others from `room` on.
fn gate(pc: u64, room: u64, code: Code<'_>) -> Option<Gate> {
    match code {
        Code::Text(_) => {
            let (jump, words) = arm64(pc, code.word(pc)?, room)?;
            let words = words.into_iter().chain([0]);
            (room..)
                .step_by(4)
                .zip(words.clone())
                .try_for_each(|(at, w)| code.write_word(at, w))?;
            code.write_word(pc, jump)?;
            let (load, moved) = match jump >> 31 {
                1 => (room, room + 16),
                _ => (room + 4, room + 24),
            };
            Some(Gate { pc, moved, load, word: room + 4 * (words.count() as u64 - 1) })
        }
        Code::Walked { .. } => {
            let (jump, bytes) = x86(pc, code.bytes(pc)?, room)?;
            let word = room + bytes.len() as u64;
            code.write_bytes(room, &bytes)?;
            code.write_bytes(word, &[0; 4])?;
            code.write_bytes(pc, &jump)?;
            Some(Gate { pc, moved: room + 13, load: room, word })
        }
    }
}

/// `B`, or `BL`, from here to there.
fn branch(from: u64, to: u64, link: bool) -> Option<u32> {
    let words = to.wrapping_sub(from) as i64 >> 2;
    let opcode = if link { 0x9400_0000 } else { 0x1400_0000 };
    (-(1 << 25)..1 << 25).contains(&words).then_some(opcode | words as u32 & 0x03ff_ffff)
}

/// What is written at `pc`, and from `room` on, before the word, so that this instruction waits.
/// W16 is free at calls; elsewhere it is kept on the stack.
fn arm64(pc: u64, instruction: u32, room: u64) -> Option<(u32, Vec<u32>)> {
    const LDR_W16: u32 = 0x1800_0010;
    const CBZ_W16_TO_3: u32 = 0x3400_0070;
    const YIELD: u32 = 0xd503_203f;
    const B_BACK_3: u32 = 0x17ff_fffd;
    const PUSH_X16: u32 = 0xf81f_0ff0;
    const POP_X16: u32 = 0xf841_07f0;
    let wait = |to_word: u32| [LDR_W16 | to_word << 5, CBZ_W16_TO_3, YIELD, B_BACK_3];
    if let Some(callee) = patch::called(pc, instruction) {
        let words = [&wait(5)[..], &[branch(room + 16, callee, false)?]].concat();
        return Some((branch(pc, room, true)?, words));
    }
    // Branches, ADR, and loads of literals mean another place elsewhere; what ends an exclusive
    // access must not come after other stores.
    let is = |mask: u32, bits: u32| instruction & mask == bits;
    let elsewhere = is(0x7c00_0000, 0x1400_0000)
        || is(0x7c00_0000, 0x3400_0000)
        || is(0xff00_0000, 0x5400_0000)
        || is(0x1f00_0000, 0x1000_0000)
        || is(0x3b00_0000, 0x1800_0000)
        || is(0x3fa0_0000, 0x0800_0000);
    if elsewhere {
        return None;
    }
    let rest = [POP_X16, instruction, branch(room + 28, pc + 4, false)?];
    Some((branch(pc, room, false)?, [&[PUSH_X16], &wait(7)[..], &rest].concat()))
}

/// The same of x86: a call, or a `LOCK CMPXCHG`; before these no flag matters.
fn x86(pc: u64, own: [u8; 6], room: u64) -> Option<(Vec<u8>, Vec<u8>)> {
    let relative = |opcode: u8, from: u64, to: u64| {
        let distance = i32::try_from(to.wrapping_sub(from + 5) as i64).ok()?;
        Some([&[opcode][..], &distance.to_le_bytes()].concat())
    };
    const JMP: u8 = 0xe9;
    // cmpl $0, WORD(%rip); je after; pause; jmp back.
    let wait = |len: u8| [0x83, 0x3d, len + 6, 0, 0, 0, 0, 0x74, 4, 0xf3, 0x90, 0xeb, 0xf3];
    let after = room + 13;
    let first = *own.first_chunk()?;
    if let Some(callee) = patch::called_x86(pc, first) {
        let rest = relative(JMP, after, callee)?;
        return Some((relative(patch::CALL_X86, pc, room)?, [&wait(5)[..], &rest].concat()));
    }
    let len = patch::cmpxchg(first)?;
    let own = &own[..len as usize];
    let back = relative(JMP, after + len, pc + len)?;
    let jump = relative(JMP, pc, room)?;
    Some((jump, [&wait(5 + len as u8)[..], own, &back].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(text: &str) -> Hold {
        text.parse().unwrap()
    }

    #[test]
    fn places_are_read() {
        let at = hold("a:f:call/g:enter");
        assert_eq!((&at.until[..], &at.at), (&[Until::Enter][..], &Old::Call("g".to_owned())));
        let until = hold("a:f:cmpxchg:return/kvm_mmu_page_fault|enter").until;
        let returns = Until::Return(functions::number("kvm_mmu_page_fault").unwrap());
        assert_eq!(until, [returns, Until::Enter]);
        assert!(hold("a:f:call/g:always/enter").always && !at.always);
        for bad in ["", "a:f:call/g", "a:f:call/g:return/nobody", "a:f:what:enter"] {
            assert!(bad.parse::<Hold>().is_err(), "{bad}");
        }
    }

    #[test]
    fn one_cpu_waits_until_another_has_come() {
        let mut queue = Queue::default();
        assert_eq!(queue.pass(1, 10), (true, Some(Step::Begins)));
        assert_eq!(queue.pass(2, 10), (false, None), "one at a time");
        queue.see(1);
        assert_eq!(queue.pass(1, 11), (true, None), "not what it does itself");
        queue.see(2);
        assert_eq!(queue.pass(1, 12), (false, Some(Step::Ends { over: true })));
        assert_eq!(queue.pass(1, 13), (true, Some(Step::Begins)));
        assert_eq!(queue.times, (2, 0));
    }

    #[test]
    fn no_cpu_waits_for_ever() {
        let mut queue = Queue::default();
        queue.pass(1, 10);
        assert_eq!(queue.pass(1, 10 + EVENTS_MAX), (false, Some(Step::Ends { over: false })));
        assert_eq!(queue.pass(1, 2000), (false, None), "the next time is left out");
        queue.pass(1, 2000);
        let turns = (0..TURNS_MAX + 10).take_while(|_| queue.pass(1, 2000).0).count();
        assert_eq!(turns as u32, TURNS_MAX - 1);
        assert_eq!(queue.times, (2, 2));
        let passed = (0..100).take_while(|_| !queue.pass(1, 2000).0).count();
        assert_eq!(passed, 3, "and then three");
        let mut queue = Queue { always: true, ..Queue::default() };
        queue.pass(1, 10);
        queue.pass(1, 10 + EVENTS_MAX);
        assert!(queue.pass(1, 2000).0, "each time");
    }

    #[test]
    fn a_call_of_arm64_waits_first() {
        let (jump, words) = arm64(0x1000, 0x9400_0004, 0x2000).unwrap();
        assert_eq!(jump, 0x9400_0400, "bl 0x2000");
        let callee = *words.last().unwrap();
        assert_eq!(callee, branch(0x2010, 0x1010, false).unwrap(), "b 0x1010");
        assert_eq!(words[0], 0x1800_00b0, "the word is five further on");
        assert_eq!(words.len(), 5);
    }

    #[test]
    fn what_means_another_place_elsewhere_is_left() {
        // NOP, CASA W0, W1, [X2], CMP X1, X0.
        for other in [0xd503_201f, 0x88e0_7c41, 0xeb00_003f] {
            let (_, words) = arm64(0x1000, other, 0x2000).unwrap();
            assert_eq!(words[6], other);
            assert_eq!(words[1], 0x1800_00f0, "the word is seven further on");
            assert_eq!(words.len(), 8);
        }
        // B, B.EQ, CBZ, TBZ, ADRP, LDR literal, STLXR.
        for place in [
            0x1400_0001,
            0x5400_0040,
            0xb400_0040,
            0x3600_0040,
            0x9000_0001,
            0x5800_0040,
            0xc800_fc41,
        ] {
            assert_eq!(arm64(0x1000, place, 0x2000), None, "{place:#x}");
        }
    }

    #[test]
    fn a_call_of_x86_waits_first() {
        let bytes = [0xe8, 0xfb, 0x0f, 0, 0, 0];
        let (jump, code) = x86(0x1000, bytes, 0x5000).unwrap();
        assert_eq!(jump, [0xe8, 0xfb, 0x3f, 0, 0]);
        // The callee is 0x2000; the jump to it is at 0x500d, and the word at 0x5012.
        assert_eq!(code[13..], [0xe9, 0xee, 0xcf, 0xff, 0xff]);
        assert_eq!(code[2], 0x12 - 7, "from the end of the comparison");
        let own = [0xf0, 0x48, 0x0f, 0xb1, 0x4d, 0x08];
        let (_, code) = x86(0x1000, own, 0x5000).unwrap();
        assert_eq!(code[13..19], own);
        assert_eq!(code[2] as usize + 7, code.len());
        assert_eq!(code[12] as i8, -13, "back to the comparison");
    }
}
