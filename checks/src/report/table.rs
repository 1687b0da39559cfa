//! The two-column table: 74 columns of plain text that are also a reStructuredText grid table.

use super::fold::Step;
use super::phrase::called;
use super::wrap::{wrap, wrap_after};

/// The width of every line.
pub const WIDTH: usize = 74;
/// Characters between the borders of the left cell.
const LEFT: usize = 36;
/// Characters between the borders of the right cell.
const RIGHT: usize = 35;
/// Characters between the borders of a cell that spans both.
const BOTH: usize = LEFT + 1 + RIGHT;

/// What a table shows.
#[derive(Clone, Debug)]
pub struct Table<'a> {
    /// What is true before the first step.
    pub beginning: &'a [String],
    /// The heads of the two columns.
    pub heads: [String; 2],
    /// The steps, in order.
    pub steps: &'a [Step],
    /// The thread of the left column.
    pub left: u8,
    /// The names of the threads.
    pub names: &'a [String],
    /// What is lost.
    pub oops: &'a str,
    /// What each thread waits for, where nothing goes on; printed in place of `oops`.
    pub stuck: &'a [String],
}

/// The lines of the table, each [`WIDTH`] characters.
pub fn lines(table: &Table<'_>) -> Vec<String> {
    let mut out = vec![format!("+{}+", "-".repeat(BOTH))];
    out.push(both(" At the beginning::"));
    out.push(both(""));
    for line in table.beginning {
        for line in wrap_after("     ", "       ", line, BOTH - 1) {
            out.push(both(&line));
        }
    }
    let rule = format!("+{}+{}+", "-".repeat(LEFT), "-".repeat(RIGHT));
    out.push(rule.clone());
    let heads = table.heads.clone().map(|head| -> Vec<String> {
        head.lines().flat_map(|line| wrap(line, RIGHT - 2)).collect()
    });
    for i in 0..heads[0].len().max(heads[1].len()) {
        let cell = |head: &[String]| head.get(i).map_or(String::new(), |l| format!(" {l}"));
        out.push(row(&cell(&heads[0]), &cell(&heads[1])));
    }
    out.push(rule.clone());
    let digits =
        table.steps.iter().map(|s| s.number.to_string().len()).max().unwrap_or(1).max(2) + 2;
    for segment in table.steps.chunk_by(|a, b| a.thread == b.thread) {
        let left = segment[0].thread == table.left;
        let mut cell = vec![" ::".to_owned(), String::new()];
        segment_lines(table, segment, digits, &mut cell);
        for line in cell {
            out.push(if left { row(&line, "") } else { row("", &line) });
        }
        out.push(rule.clone());
    }
    out.extend(end(table));
    out.push(format!("+{}+", "-".repeat(BOTH)));
    out
}

/// The last box: what is lost, or who waits for whom.
fn end(table: &Table<'_>) -> Vec<String> {
    let oops = format!("OOPS!!! {}", table.oops);
    if table.stuck.is_empty() && plain(&oops) {
        return wrap(&oops, BOTH - 2).iter().map(|line| both(&format!(" {line}"))).collect();
    }
    let mut out = vec![both(" OOPS!!!"), both(""), both(" ::"), both("")];
    if table.stuck.is_empty() {
        out.extend(wrap(table.oops, BOTH - 6).iter().map(|line| both(&format!("     {line}"))));
    }
    for line in table.stuck {
        let text = line.trim_start();
        let indent = " ".repeat(5 + line.len() - text.len());
        let rest = format!("{indent}    ");
        out.extend(hanging(&indent, &rest, text, BOTH).iter().map(|line| both(line)));
    }
    out
}

/// The lines of the steps of one thread that follow one another.
fn segment_lines(table: &Table<'_>, segment: &[Step], digits: usize, cell: &mut Vec<String>) {
    let left = segment[0].thread == table.left;
    let width = if left { LEFT } else { RIGHT };
    let who = match left {
        true => String::new(),
        false => format!("{}: ", short(table.names, segment[0].thread)),
    };
    let mut function = "";
    for step in segment {
        if step.function != function {
            function = &step.function;
            // In the stop phase no function of KVM need be running.
            let name =
                if who == format!("{function}: ") { String::new() } else { called(function) };
            cell.extend(function_lines(format!("{who}{name}").trim_end(), width));
        }
        let number = format!("{:>digits$} ", step.number);
        let rest = " ".repeat(number.len() + 2);
        let locked = if step.locked { " [L]" } else { "" };
        let mut deltas = step.deltas.clone();
        let mut text = format!("{}{locked}", step.text);
        if step.locked
            && number.len() + text.len() > width
            && number.len() + step.text.len() <= width
            && let Some(first) = deltas.first_mut()
        {
            first.insert_str(0, "[L] ");
            text.clone_from(&step.text);
        }
        cell.extend(hanging(&number, &rest, &text, width));
        for delta in &deltas {
            let deeper = format!("{rest}  ");
            match delta.split_once(" -> ") {
                Some((from, to)) if rest.len() + delta.len() > width => {
                    cell.extend(hanging(&rest, &deeper, from, width));
                    cell.extend(hanging(&rest, &deeper, &format!("-> {to}"), width));
                }
                _ => cell.extend(hanging(&rest, &deeper, delta, width)),
            }
        }
    }
}

/// The name of a function, broken at an underscore if it must be.
fn function_lines(name: &str, width: usize) -> Vec<String> {
    let room = width - 2;
    match name.get(..room).and_then(|start| start.rfind('_')) {
        Some(at) if name.len() > room => {
            vec![format!("  {}", &name[..at]), format!("    {}", &name[at..])]
        }
        _ => hanging("  ", "    ", name, width),
    }
}

/// [`wrap_after`] where the first line has as much room as it can.
fn hanging(first: &str, rest: &str, text: &str, width: usize) -> Vec<String> {
    let whole = format!("{first}{text}");
    let ascii = |c: char| c.is_ascii_graphic() || c == ' ';
    if text.chars().all(ascii) && whole.len() <= width {
        vec![whole]
    } else {
        wrap_after(first, rest, text, width)
    }
}

/// The prefix of a thread in the right column: `v1`, `host`, `user`, `stop`.
pub fn short(names: &[String], thread: u8) -> String {
    match names.get(usize::from(thread)) {
        None => "stop".to_owned(),
        Some(name) => match name.strip_prefix("vcpu") {
            Some(number) => format!("v{number}"),
            None => name.clone(),
        },
    }
}

/// A line of a cell that spans both columns.
fn both(text: &str) -> String {
    format!("|{text:<BOTH$}|")
}

/// A line of two cells.
fn row(left: &str, right: &str) -> String {
    format!("|{left:<LEFT$}|{right:<RIGHT$}|")
}

/// True if reStructuredText reads `text` as it stands.
fn plain(text: &str) -> bool {
    let markup = text.contains(['*', '`', '|', '\\', '_']);
    !markup && !text.contains("::") && text.is_ascii()
}
