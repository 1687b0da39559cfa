//! Takes the tool's lines out of a source text: what is left is the protocol.
//!
//! One edit at a time, and the text is parsed again after each, so that edits never overlap.

use std::ops::Range;

use crate::items::without_links;
use kvmmu_model::Guard;
use proc_macro2::{LineColumn, Span};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Block, Expr, ExprMethodCall, Pat, Stmt};

/// What a guard leaves behind, until it is put at the end of its line.
const NOTE: (&str, &str) = ("/*guard: ", "*/");

/// The text without the tool's lines. Comments stay.
pub(crate) fn strip(source: &str) -> String {
    let mut text = source.to_owned();
    while let Some(edit) = next_edit(&text) {
        text.replace_range(edit.range, &edit.text);
    }
    let text = without_links(&plain_names(&text)).replace(";;", ";");
    let text = notes_to_line_ends(&text).replace(";;", ";");
    releases(&notes_to_block_heads(&text))
}

struct Edit {
    range: Range<usize>,
    text: String,
}

fn next_edit(text: &str) -> Option<Edit> {
    let file = syn::parse_file(text).unwrap_or_else(|why| panic!("{why}\n{text}"));
    let mut finder = Finder { text, found: None };
    finder.visit_file(&file);
    finder.found
}

struct Finder<'t> {
    text: &'t str,
    found: Option<Edit>,
}

impl Finder<'_> {
    fn at(&self, place: LineColumn) -> usize {
        let lines = self.text.split_inclusive('\n').take(place.line - 1);
        lines.map(str::len).sum::<usize>() + place.column
    }
    fn range(&self, span: Span) -> Range<usize> {
        self.at(span.start())..self.at(span.end())
    }
    fn of(&self, node: &impl Spanned) -> &str {
        &self.text[self.range(node.span())]
    }
    fn found(&mut self, range: Range<usize>, text: impl Into<String>) {
        if self.found.is_none() {
            self.found = Some(Edit { range, text: text.into() });
        }
    }

    /// How far the line of this place is indented.
    fn indent(&self, at: usize) -> usize {
        let line = self.text[..at].rfind('\n').map_or(0, |i| i + 1);
        self.text[line..].len() - self.text[line..].trim_start_matches(' ').len()
    }

    /// A statement, with the lines that it stands on and the comment above it.
    fn lines_of(&self, node: &impl Spanned) -> Range<usize> {
        let Range { start, end } = self.range(node.span());
        let mut from = self.text[..start].rfind('\n').map_or(0, |i| i + 1);
        while let Some(above) = self.text[..from.saturating_sub(1)].rfind('\n') {
            if !self.text[above + 1..from].trim_start().starts_with("//") {
                break;
            }
            from = above + 1;
        }
        from..self.text[end..].find('\n').map_or(self.text.len(), |i| end + i + 1)
    }
    fn remove(&mut self, node: &impl Spanned) {
        let lines = self.lines_of(node);
        self.found(lines, "");
    }
}

/// `self.p.word(..)` or `self.word(..)`.
fn asks(call: &ExprMethodCall, words: &[&str]) -> bool {
    words.iter().any(|word| call.method == word)
}

/// `p.call(name, body)`, and not `rcu.call(callback)`.
fn is_call(call: &ExprMethodCall) -> bool {
    asks(call, &["call"]) && call.args.len() == 2
}

/// The method call that an expression begins with.
fn innermost(expr: &Expr) -> Option<&ExprMethodCall> {
    match expr {
        Expr::MethodCall(call) => match innermost(&call.receiver) {
            Some(inner) => Some(inner),
            None => Some(call),
        },
        Expr::Try(tried) => innermost(&tried.expr),
        _ => None,
    }
}

fn is_tools(call: &ExprMethodCall) -> bool {
    asks(call, &["mark", "checkpoint", "forget", "without", "reads", "freed", "allocated"])
}

/// The name of the guard, from `Guard::RangeStartFlush`.
fn guard_name(expr: &Expr) -> &'static str {
    let Expr::Path(path) = expr else { panic!("a guard is named by its path") };
    let name = path.path.segments.last().expect("a path has a segment").ident.to_string();
    let guard = Guard::ALL.iter().find(|guard| format!("{guard:?}") == name);
    guard.unwrap_or_else(|| panic!("no guard is called {name}")).info().name
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_block(&mut self, block: &'ast Block) {
        for (i, stmt) in block.stmts.iter().enumerate() {
            match stmt {
                Stmt::Expr(Expr::MethodCall(call), Some(_))
                    if innermost(&Expr::MethodCall(call.clone())).is_some_and(is_tools) =>
                {
                    self.remove(stmt);
                }
                // `let x = e; x`, of which the middle is gone.
                Stmt::Local(local)
                    if i + 2 == block.stmts.len()
                        && matches!(&block.stmts[i + 1], Stmt::Expr(Expr::Path(last), None)
                            if bound(&local.pat).is_some_and(|name| last.path.is_ident(&name))) =>
                {
                    let init = local.init.as_ref().expect("what is given back has a value");
                    let (whole, last) = (self.range(stmt.span()), block.stmts[i + 1].span());
                    let both = whole.start..self.range(last).end;
                    // Its notes stand behind it, before the semicolon.
                    let value = self.range(init.expr.span()).start..whole.end - 1;
                    let text = self.text[value].to_owned();
                    self.found(both, text);
                }
                // What nothing is left in.
                Stmt::Expr(Expr::If(cond), _)
                    if cond.then_branch.stmts.is_empty() && cond.else_branch.is_none() =>
                {
                    self.remove(stmt);
                }
                Stmt::Local(local) => {
                    let Some(init) = &local.init else { continue };
                    let Some(name) = bound(&local.pat) else { continue };
                    let rest = &block.stmts[i + 1..];
                    if let Some(guard) = taken_by_without(&init.expr) {
                        self.forget(stmt, &name, guard, rest);
                    } else if let Some((uses, text)) = self.once(&name, &init.expr, rest) {
                        self.found(uses, text);
                    } else if free_of_effect(&init.expr) && !rest.iter().any(|s| names(s, &name)) {
                        self.remove(stmt);
                    }
                }
                _ => {}
            }
        }
        visit::visit_block(self, block);
    }

    fn visit_stmt(&mut self, stmt: &'ast Stmt) {
        // A guarded block as a statement: its lines take the statement's place.
        if let Stmt::Expr(Expr::MethodCall(call), Some(_)) = stmt
            && asks(call, &["guarded"])
            && let [guard, Expr::Closure(closure)] = &call.args.iter().collect::<Vec<_>>()[..]
            && let Expr::Block(body) = &*closure.body
        {
            self.lay_open(stmt, guard_name(guard), &body.block);
        }
        // So do those of `if guarded(G, || true) { .. }`.
        if let Stmt::Expr(Expr::If(cond), _) = stmt
            && cond.else_branch.is_none()
            && let Expr::MethodCall(call) = &*cond.cond
            && asks(call, &["guarded"])
            && closure_text(self, &call.args[1]) == "true"
        {
            self.lay_open(stmt, guard_name(&call.args[0]), &cond.then_branch);
        }
        visit::visit_stmt(self, stmt);
    }

    fn visit_expr(&mut self, expr: &'ast Expr) {
        match expr {
            // `kvm || without(G, ..)`: the first.
            Expr::Binary(both)
                if matches!(both.op, syn::BinOp::Or(_))
                    && taken_by_without(&both.right).is_some() =>
            {
                let (range, text) = (self.range(expr.span()), self.of(&*both.left).to_owned());
                self.found(range, text);
            }
            // `cond && guarded(G, || true)`: the condition is what KVM asks.
            Expr::Binary(both) if matches!(both.op, syn::BinOp::And(_)) => {
                if let Expr::MethodCall(call) = &*both.right
                    && asks(call, &["guarded"])
                    && closure_text(self, &call.args[1]) == "true"
                {
                    let note = format!(" {}{}{}", NOTE.0, guard_name(&call.args[0]), NOTE.1);
                    let text = self.of(&both.left).to_owned() + &note;
                    let range = self.range(expr.span());
                    self.found(range, text);
                }
            }
            // `without(G, ..).unwrap_or(kvm)`: the second.
            Expr::MethodCall(call)
                if asks(call, &["unwrap_or"]) && taken_by_without(&call.receiver).is_some() =>
            {
                let guard = taken_by_without(&call.receiver).expect("just asked");
                let text = self.of(&call.args[0]).to_owned();
                let range = self.range(expr.span());
                self.found(range, format!("{text} {}{guard}{}", NOTE.0, NOTE.1));
            }
            // `!guarded(G, || a != b)`: what is denied is the whole.
            Expr::Unary(not)
                if let Expr::MethodCall(call) = &*not.expr
                    && asks(call, &["guarded"])
                    && may_be_binary(&call.args[1]) =>
            {
                let note = format!("{}{}{}", NOTE.0, guard_name(&call.args[0]), NOTE.1);
                let text = closure_text(self, &call.args[1]);
                let range = self.range(expr.span());
                self.found(range, format!("!({text}) {note}"));
            }
            Expr::MethodCall(call) if asks(call, &["guarded"]) => {
                let note = format!("{}{}{}", NOTE.0, guard_name(&call.args[0]), NOTE.1);
                let text = closure_text(self, &call.args[1]);
                let range = self.range(expr.span());
                self.found(range, format!("{text} {note}"));
            }
            Expr::MethodCall(call) if asks(call, &["lockless"]) => {
                let (range, text) = (self.range(expr.span()), closure_text(self, &call.args[0]));
                self.found(range, text);
            }
            // A call whose body stands here: its lines take the call's place.
            Expr::MethodCall(call) if is_call(call) && is_block(&call.args[1]) => {
                let text = inside(&closure_text(self, &call.args[1]));
                let range = self.range(expr.span());
                self.found(range, text);
            }
            Expr::MethodCall(call) if is_call(call) => {
                let name = self.of(&call.args[0]).trim_matches('"').to_owned();
                let range = self.range(expr.span());
                self.found(range, format!("{name}()"));
            }
            _ => {}
        }
        visit::visit_expr(self, expr);
    }
}

impl Finder<'_> {
    /// The lines of a block, the first of which bears the guard's name, in a statement's place.
    fn lay_open(&mut self, stmt: &Stmt, guard: &str, block: &Block) {
        let outer = self.range(stmt.span());
        let inner = inside(self.of(block));
        let mut lines: Vec<String> = inner.lines().map(str::to_owned).collect();
        let code = lines.iter().position(|line| !line.trim_start().starts_with("//"));
        lines[code.unwrap_or(0)] += &format!(" {}{guard}{}", NOTE.0, NOTE.1);
        self.found(outer, lines.join("\n"));
    }

    /// Where a closure of one expression is called, if it is named once, and what it does.
    fn once(&self, name: &str, init: &Expr, rest: &[Stmt]) -> Option<(Range<usize>, String)> {
        struct Calls<'f, 't>(&'f Finder<'t>, &'f str, usize, Option<Range<usize>>);
        impl<'ast> Visit<'ast> for Calls<'_, '_> {
            fn visit_ident(&mut self, ident: &'ast syn::Ident) {
                self.2 += usize::from(ident == self.1);
            }
            fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
                if self.0.of(&call.func) == self.1 && call.args.is_empty() {
                    self.3 = Some(self.0.range(call.span()));
                }
                visit::visit_expr_call(self, call);
            }
        }
        let Expr::Closure(closure) = init else { return None };
        if !closure.inputs.is_empty() {
            return None;
        }
        let mut calls = Calls(self, name, 0, None);
        rest.iter().for_each(|stmt| calls.visit_stmt(stmt));
        let text = match &*closure.body {
            Expr::Block(body) => inside(self.of(&body.block)),
            body => self.of(body).to_owned(),
        };
        let range = calls.3.filter(|_| calls.2 == 1)?;
        let deeper =
            self.indent(range.start).saturating_sub(self.indent(self.at(init.span().start())));
        Some((range, text.replace('\n', &format!("\n{:deeper$}", ""))))
    }

    /// What `without` gave is nothing: the statement goes, and what asks for the name is what it is
    /// without it.
    fn forget(&mut self, stmt: &Stmt, name: &str, guard: &'static str, rest: &[Stmt]) {
        struct Uses<'f, 't> {
            finder: &'f mut Finder<'t>,
            name: String,
            guard: &'static str,
        }
        impl<'ast> Visit<'ast> for Uses<'_, '_> {
            fn visit_stmt(&mut self, stmt: &'ast Stmt) {
                if let Stmt::Expr(Expr::Call(call), Some(_)) = stmt
                    && self.finder.of(&call.func) == "drop"
                    && self.finder.of(&call.args) == self.name
                {
                    self.finder.remove(stmt);
                }
                visit::visit_stmt(self, stmt);
            }
            fn visit_expr(&mut self, expr: &'ast Expr) {
                let note = format!(" {}{}{}", NOTE.0, self.guard, NOTE.1);
                let is = |finder: &Finder<'_>, e: &Expr| finder.of(e) == self.name;
                let range = self.finder.range(expr.span());
                match expr {
                    Expr::MethodCall(call) if is(self.finder, &call.receiver) => {
                        let text = match call.method.to_string().as_str() {
                            "unwrap_or_else" => closure_text(self.finder, &call.args[0]),
                            "unwrap_or" => self.finder.of(&call.args[0]).to_owned(),
                            _ => return,
                        };
                        self.finder.found(range, text + &note);
                    }
                    Expr::Binary(both) if is(self.finder, &both.left) => {
                        let text = self.finder.of(&both.right).to_owned();
                        self.finder.found(range, text + &note);
                    }
                    Expr::Binary(both)
                        if self.finder.of(&*both.right) == format!("!{}", self.name) =>
                    {
                        let text = self.finder.of(&both.left).to_owned();
                        self.finder.found(range, text + &note);
                    }
                    _ => {}
                }
                visit::visit_expr(self, expr);
            }
        }
        let mut uses = Uses { finder: self, name: name.to_owned(), guard };
        rest.iter().for_each(|stmt| uses.visit_stmt(stmt));
        if !rest.iter().any(|stmt| names(stmt, name)) {
            self.remove(stmt);
        }
    }
}

/// The guard that a value of `without` stands for.
fn taken_by_without(expr: &Expr) -> Option<&'static str> {
    struct Without(Option<&'static str>);
    impl<'ast> Visit<'ast> for Without {
        fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
            if asks(call, &["without"]) && call.args.len() == 2 {
                self.0 = Some(guard_name(&call.args[0]));
            }
            visit::visit_expr_method_call(self, call);
        }
    }
    let mut without = Without(None);
    match expr {
        Expr::Closure(_) => {}
        Expr::Binary(both) if matches!(both.op, syn::BinOp::Or(_)) => {}
        Expr::MethodCall(call) if asks(call, &["unwrap_or"]) => {}
        expr => without.visit_expr(expr),
    }
    without.0
}

/// The name that a pattern binds, if it is one name that is used.
fn bound(pat: &Pat) -> Option<String> {
    match pat {
        Pat::Ident(name) => Some(name.ident.to_string()),
        Pat::Type(typed) => bound(&typed.pat),
        _ => None,
    }
}

/// True if nothing happens where it stands: a closure, `None`.
fn free_of_effect(expr: &Expr) -> bool {
    match expr {
        Expr::Closure(_) => true,
        Expr::Path(_) | Expr::Lit(_) => true,
        Expr::Reference(place) => matches!(&*place.expr, Expr::Index(_)),
        Expr::Binary(both) => free_of_effect(&both.left) && free_of_effect(&both.right),
        _ => false,
    }
}

/// True if the statement names it.
fn names(stmt: &Stmt, name: &str) -> bool {
    struct Names<'n>(&'n str, bool);
    impl<'ast> Visit<'ast> for Names<'_> {
        fn visit_ident(&mut self, ident: &'ast syn::Ident) {
            self.1 |= ident == self.0;
        }
        fn visit_macro(&mut self, mac: &'ast syn::Macro) {
            self.1 |= mac.tokens.to_string().contains(self.0);
        }
    }
    let mut names = Names(name, false);
    names.visit_stmt(stmt);
    names.1
}

/// The lines of a block without its braces, where the block stood.
fn inside(block: &str) -> String {
    let inner = block.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(block);
    inner.trim().replace("\n    ", "\n")
}

/// A closure whose body is a block.
fn is_block(expr: &Expr) -> bool {
    matches!(expr, Expr::Closure(closure) if matches!(&*closure.body, Expr::Block(_)))
}

/// A closure that asks something of two values, or the name of one, whose body comes later.
fn may_be_binary(expr: &Expr) -> bool {
    match expr {
        Expr::Closure(closure) => matches!(&*closure.body, Expr::Binary(_)),
        _ => true,
    }
}

/// What a closure does, or the call of the closure of this name.
fn closure_text(finder: &Finder<'_>, expr: &Expr) -> String {
    match expr {
        Expr::Closure(closure) => finder.of(&closure.body).to_owned(),
        other => format!("{}()", finder.of(other)),
    }
}

/// Names as the kernel has them: no receivers, no paths.
fn plain_names(text: &str) -> String {
    let mut text = text.to_owned();
    for (from, to) in [
        ("(&self, ", "("),
        ("(&self)", "()"),
        ("(&'a self, ", "("),
        ("self.p.", ""),
        ("self.", ""),
        ("(self, ", "("),
        ("M::", ""),
        (" vm.", " "),
        ("(vm.", "("),
        ("(vm, ", "("),
        ("    vm: &Vm<P, H, Self>,\n", ""),
        ("(vm: &Vm<P, H, Self>, ", "("),
        ("<H: Host>(", "("),
        ("(&p, ", "("),
        ("(p: &P, ", "("),
        ("pub(super) ", ""),
        ("pub(in crate::arm64) ", ""),
        ("pub(crate) ", ""),
        ("pub ", ""),
        ("    &self,\n", ""),
        ("    &'a self,\n", ""),
        ("mmu.format.", ""),
        (" if true /*", " /*"),
        ("&mut MmuState<Self::State>", "&mut Locked"),
        ("&MmuState<State>", "&Locked"),
        ("&mut MmuState<ShadowPages>", "&mut Locked"),
    ] {
        text = text.replace(from, to);
    }
    text
}

/// The name of a guard whose step is a whole block stands where the block begins.
fn notes_to_block_heads(text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for i in 0..lines.len() {
        let code = lines[i].split("  // ").next().unwrap_or_default().to_owned();
        if code.trim() != "};" {
            continue;
        }
        let indent = code.len() - code.trim_start().len();
        let heads = |line: &String| {
            let depth = line.len() - line.trim_start().len();
            depth == indent && line.trim_end_matches(|c| c != '{').ends_with('{')
        };
        let Some(head) = lines[..i].iter().rposition(heads) else { continue };
        if lines[head].trim_start().starts_with("let ") {
            continue;
        }
        if let Some((_, note)) = lines[i].clone().split_once("  // guard: ") {
            lines[head] = match lines[head].contains("  // guard: ") {
                true => format!("{}, {note}", lines[head]),
                false => format!("{}  // guard: {note}", lines[head]),
            };
        }
        lines[i] = code.replace("};", "}");
    }
    lines.iter().fold(String::new(), |text, line| text + line + "\n")
}

/// Where a block ends that took a lock or began a read section, and did not drop it, it says so.
fn releases(text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for i in 0..lines.len() {
        let taken = |line: &str| -> Option<(String, String)> {
            let (name, init) = line.trim_start().strip_prefix("let ")?.split_once(" = kvm.")?;
            let lock = init.strip_suffix(".lock();").or(init.strip_suffix(".read_lock();"))?;
            Some((name.trim_start_matches("mut ").to_owned(), lock.to_owned()))
        };
        let code = lines[i].split("  // guard: ").next().unwrap_or_default();
        let Some((name, lock)) = taken(code) else { continue };
        let indent = |line: &str| line.len() - line.trim_start().len();
        let depth = indent(&lines[i]);
        let end = (i + 1..lines.len())
            .find(|j| !lines[*j].trim().is_empty() && indent(&lines[*j]) < depth);
        let Some(end) = end else { continue };
        if lines[i..end].iter().any(|line| line.trim() == format!("drop({name});")) {
            continue;
        }
        lines[end] = match lines[end].split_once("  // releases ") {
            Some((brace, inner)) => format!("{brace}  // releases {lock}, {inner}"),
            None => format!("{}  // releases {lock}", lines[end]),
        };
    }
    lines.iter().fold(String::new(), |text, line| text + line + "\n")
}

/// Each guard's name at the end of its line.
fn notes_to_line_ends(text: &str) -> String {
    let (mut lines, mut carried) = (Vec::new(), Vec::new());
    for line in text.split('\n') {
        let (mut code, mut guards) = (line.to_owned(), std::mem::take(&mut carried));
        while let Some((before, rest)) = code.split_once(NOTE.0) {
            let (name, after) = rest.split_once(NOTE.1).expect("a note ends");
            guards.push(name.to_owned());
            code = before.trim_end().to_owned() + after;
        }
        // Where a step is the rest of the function, it is asked for first.
        if code.trim() == "Some(())?;" {
            carried = guards;
            continue;
        }
        guards.dedup();
        lines.push(match guards.is_empty() {
            true => code,
            false => format!("{code}  // guard: {}", guards.join(", ")),
        });
    }
    lines.join("\n")
}
