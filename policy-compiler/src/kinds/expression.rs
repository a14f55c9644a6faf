//! Regular expressions of users: those that Envoy's RE2 reads as the evaluator does, and that fit into a sidecar.

use regex_syntax::ast::{self, Ast};
use regex_syntax::hir::{Class, Hir, HirKind, translate::TranslatorBuilder};

/// The most instructions of a program: RE2 demands some 16 bytes for each, and its automaton a multiple of that.
const MAX_PROGRAM: usize = 1000;
/// The most repetitions that RE2 reads.
const MAX_REPEAT: u32 = 1000;

/// Checks an expression.
///
/// # Errors
/// The reason why it is not one, after "is not a regular expression: ".
pub(super) fn check(text: &str) -> Result<(), String> {
    if !text.is_ascii() {
        return Err("it has characters outside ASCII".to_owned());
    }
    let syntax = ast::parse::Parser::new().parse(text);
    let syntax = syntax.map_err(|error| error.kind().to_string())?;
    ast::visit(&syntax, Common::of(text))?;
    let mut translator = TranslatorBuilder::new().unicode(false).utf8(false).build();
    let meaning = translator.translate(text, &syntax);
    let meaning = meaning.map_err(|error| error.kind().to_string())?;
    let size = size(&meaning);
    if size > MAX_PROGRAM {
        return Err(format!(
            "its program has {size} instructions, which is more than {MAX_PROGRAM}"
        ));
    }
    Ok(())
}

/// Finds syntax that RE2 does not read, or reads otherwise.
struct Common<'t> {
    text: &'t str,
    /// For each repetition around the node: its count times those around it. RE2 bounds the product on the syntax tree, even for
    /// expressions of no width.
    counts: Vec<u64>,
}

impl<'t> Common<'t> {
    const fn of(text: &'t str) -> Self {
        let counts = Vec::new();
        Self { text, counts }
    }

    fn repeat(&mut self, repetition: &ast::Repetition) -> Result<(), String> {
        if matches!(*repetition.ast, Ast::Repetition(_)) {
            return Err("a repetition of a repetition needs a group".to_owned());
        }
        let span = repetition.op.span;
        let operator = self.text.get(span.start.offset..span.end.offset);
        if operator.is_none_or(|operator| operator.contains(|c: char| c.is_whitespace())) {
            return Err("a repetition with blanks in its braces is not supported".to_owned());
        }
        let count = most(&repetition.op.kind);
        let around = self.counts.last().copied().unwrap_or(1);
        let all = u64::from(count.max(1)).saturating_mul(around);
        self.counts.push(all);
        match all > u64::from(MAX_REPEAT) {
            true if around > 1 && count <= MAX_REPEAT => Err(format!(
                "repetitions within repetitions are {all} together, which is more than {MAX_REPEAT}"
            )),
            true => Err(format!(
                "more than {MAX_REPEAT} repetitions are not supported"
            )),
            false => Ok(()),
        }
    }
}

impl ast::Visitor for Common<'_> {
    type Output = ();
    type Err = String;

    fn finish(self) -> Result<(), String> {
        Ok(())
    }

    fn visit_pre(&mut self, node: &Ast) -> Result<(), String> {
        match node {
            Ast::Flags(set) => flags(&set.flags),
            Ast::Group(group) => match &group.kind {
                ast::GroupKind::NonCapturing(of) => flags(of),
                ast::GroupKind::CaptureIndex(_) => Ok(()),
                ast::GroupKind::CaptureName { name, .. } => group_name(&name.name),
            },
            Ast::Assertion(assertion) => match assertion.kind {
                ast::AssertionKind::StartLine
                | ast::AssertionKind::EndLine
                | ast::AssertionKind::StartText
                | ast::AssertionKind::EndText
                | ast::AssertionKind::WordBoundary
                | ast::AssertionKind::NotWordBoundary => Ok(()),
                _ => Err("word boundaries other than \\b and \\B are not supported".to_owned()),
            },
            Ast::Repetition(repetition) => self.repeat(repetition),
            Ast::Literal(of) => literal(of),
            Ast::ClassUnicode(_) => Err(NO_UNICODE.to_owned()),
            Ast::Empty(_)
            | Ast::Dot(_)
            | Ast::ClassPerl(_)
            | Ast::ClassBracketed(_)
            | Ast::Alternation(_)
            | Ast::Concat(_) => Ok(()),
        }
    }

    fn visit_post(&mut self, node: &Ast) -> Result<(), String> {
        if let Ast::Repetition(_) = node {
            self.counts.pop();
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ast::ClassSetItem) -> Result<(), String> {
        match item {
            ast::ClassSetItem::Bracketed(_) => Err(NO_SETS.to_owned()),
            ast::ClassSetItem::Unicode(_) => Err(NO_UNICODE.to_owned()),
            ast::ClassSetItem::Literal(of) => literal(of),
            ast::ClassSetItem::Range(range) => literal(&range.start).and(literal(&range.end)),
            ast::ClassSetItem::Empty(_)
            | ast::ClassSetItem::Ascii(_)
            | ast::ClassSetItem::Perl(_)
            | ast::ClassSetItem::Union(_) => Ok(()),
        }
    }

    fn visit_class_set_binary_op_pre(&mut self, _: &ast::ClassSetBinaryOp) -> Result<(), String> {
        Err(NO_SETS.to_owned())
    }
}

const NO_UNICODE: &str = "classes of Unicode are not supported";
const NO_SETS: &str = "a class within a class, and &&, -- and ~~ in a class, are not supported";

fn flags(flags: &ast::Flags) -> Result<(), String> {
    let known = |item: &ast::FlagsItem| match item.kind {
        ast::FlagsItemKind::Negation
        | ast::FlagsItemKind::Flag(
            ast::Flag::CaseInsensitive
            | ast::Flag::MultiLine
            | ast::Flag::DotMatchesNewLine
            | ast::Flag::SwapGreed,
        ) => true,
        ast::FlagsItemKind::Flag(
            ast::Flag::Unicode | ast::Flag::CRLF | ast::Flag::IgnoreWhitespace,
        ) => false,
    };
    match flags.items.iter().all(known) {
        true => Ok(()),
        false => Err("flags other than i, m, s and U are not supported".to_owned()),
    }
}

/// The count that RE2 sees: the most repetitions, or the fewest where they are not bounded.
const fn most(kind: &ast::RepetitionKind) -> u32 {
    match kind {
        ast::RepetitionKind::Range(
            ast::RepetitionRange::Exactly(most)
            | ast::RepetitionRange::AtLeast(most)
            | ast::RepetitionRange::Bounded(_, most),
        ) => *most,
        ast::RepetitionKind::ZeroOrOne
        | ast::RepetitionKind::ZeroOrMore
        | ast::RepetitionKind::OneOrMore => 0,
    }
}

fn group_name(name: &str) -> Result<(), String> {
    match name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        true => Ok(()),
        false => Err("a name of a group has only letters, digits and _".to_owned()),
    }
}

fn literal(of: &ast::Literal) -> Result<(), String> {
    let unicode = matches!(
        of.kind,
        ast::LiteralKind::HexFixed(
            ast::HexLiteralKind::UnicodeShort | ast::HexLiteralKind::UnicodeLong
        )
    );
    match of.c.is_ascii() && !unicode {
        true => Ok(()),
        false => Err("characters outside ASCII, \\u and \\U are not supported".to_owned()),
    }
}

/// The instructions of a program, at least as many as RE2 makes.
fn size(of: &Hir) -> usize {
    match of.kind() {
        HirKind::Empty | HirKind::Look(_) => 1,
        HirKind::Literal(text) => text.0.len(),
        HirKind::Class(Class::Bytes(class)) => class.ranges().len().max(1),
        HirKind::Class(Class::Unicode(class)) => class.ranges().len().max(1).saturating_mul(4),
        HirKind::Repetition(repetition) => {
            let copies = repetition.max.unwrap_or(repetition.min).max(repetition.min);
            let copies = usize::try_from(copies).unwrap_or(usize::MAX).max(1);
            let optional = size(&repetition.sub).saturating_add(1);
            copies.saturating_mul(optional).saturating_add(1)
        }
        HirKind::Capture(capture) => size(&capture.sub).saturating_add(2),
        HirKind::Concat(all) | HirKind::Alternation(all) => {
            let sizes = all.iter().map(|one| size(one).saturating_add(1));
            sizes.fold(0, usize::saturating_add)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn expressions_of_re2_are_accepted() {
        for text in [
            "/v[0-9]+/.*",
            "(?i)chrome|(?:fire)fox",
            "a{3,5}(b|c)*?",
            r"\d+\.\w+\s?\b",
            "[[:alpha:]_-]+",
            "^/a$",
            r"\Aa\z",
            "(?P<name>a)",
            "(?U)a+",
            "(^{40}){25}",
            "(^{40})(^{40})",
            "((?:){0}){200}",
            "[ ]{2}",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn expressions_that_re2_reads_otherwise_are_refused() {
        for (text, reason) in [
            ("(?=a)b", "look-around"),
            (r"(a)\1", "backreferences"),
            ("(a", "unclosed group"),
            ("a{1001}", "more than 1000 repetitions"),
            ("(a{30}){30}", "instructions"),
            ("(a{100}){100}", "repetitions within repetitions"),
            ("/(^{40}){40}a", "are 1600 together"),
            ("/((?:){40}){40}b", "are 1600 together"),
            ("/((a{40}){0}){40}c", "are 1600 together"),
            (r"(\b{2}){501}", "are 1002 together"),
            ("(^{0,30}|a){35,}", "are 1050 together"),
            ("(((^{10}){10})?){11}", "are 1100 together"),
            ("(a{2}){1001}", "more than 1000 repetitions"),
            ("a{ 2 }", "blanks"),
            ("a{2, 3}", "blanks"),
            ("a{2,3 }?", "blanks"),
            ("(?P<a.b>x)", "name of a group"),
            ("a**", "needs a group"),
            ("é", "outside ASCII"),
            (r"\xe9", "outside ASCII"),
            (r"\u0061", "outside ASCII"),
            (r"\pL", "Unicode"),
            ("[a&&b]", "within a class"),
            ("[a[bc]]", "within a class"),
            ("(?x)a b", "flags"),
            ("(?u:a)", "flags"),
            (r"\b{start}a", "word boundaries"),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
