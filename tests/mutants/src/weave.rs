//! Writes all mutants of a file into it at once, each behind a switch that a run turns on by number: one build serves
//! thousands of mutants. The original text stays as it is; text is put around it. A mutated branch holds the original
//! operands, so nothing grows faster than the file.
//!
//! It differs from a textual replacement in one way: operands keep the grouping that they had.

use crate::list::{Lines, Mutant};
use proc_macro2::Span;
use std::collections::HashMap;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// A woven file, and where in it each mutant's own text stands.
pub struct Woven {
    pub text: String,
    pub branches: Vec<(usize, std::ops::Range<usize>)>,
    /// Mutants for which there is no way to write them behind a switch: in constants, and the values of
    /// functions that return an unnamed type.
    pub left_out: Vec<usize>,
}

/// Weaves the mutants, given with their numbers, into the text.
pub fn weave(text: &str, mutants: &[(usize, &Mutant)]) -> Woven {
    let file = syn::parse_file(text).expect("a source that compiles");
    let mut by_place: HashMap<(usize, usize), Vec<(usize, &Mutant)>> = HashMap::new();
    for &(number, mutant) in mutants {
        by_place.entry((mutant.start, mutant.end)).or_default().push((number, mutant));
    }
    let lines = Lines::of(text);
    let mut weaver = Weaver { text, lines, by_place, pieces: Vec::new(), constant: false, has_rest: false };
    weaver.visit_file(&file);
    let placed: Vec<usize> = weaver.pieces.iter().flat_map(|piece| &piece.parts).filter_map(|part| part.0).collect();
    let left_out = mutants.iter().map(|&(number, _)| number).filter(|number| !placed.contains(number)).collect();
    let (text, branches) = join(text, weaver.pieces);
    Woven { text, branches, left_out }
}

/// Text to put in at an octet. The order of pieces at the same octet is that of their ranks.
struct Piece {
    at: usize,
    rank: (u8, isize, isize),
    parts: Vec<(Option<usize>, String)>,
}

fn join(text: &str, mut pieces: Vec<Piece>) -> (String, Vec<(usize, std::ops::Range<usize>)>) {
    pieces.sort_by_key(|piece| (piece.at, piece.rank));
    let (mut woven, mut branches, mut copied) = (String::new(), Vec::new(), 0);
    for piece in pieces {
        woven.push_str(&text[copied..piece.at]);
        copied = piece.at;
        for (number, part) in piece.parts {
            let begins = woven.len();
            woven.push_str(&part);
            branches.extend(number.map(|number| (number, begins..woven.len())));
        }
    }
    woven.push_str(&text[copied..]);
    (woven, branches)
}

struct Weaver<'a> {
    text: &'a str,
    lines: Lines,
    by_place: HashMap<(usize, usize), Vec<(usize, &'a Mutant)>>,
    pieces: Vec<Piece>,
    /// Inside what is computed at compile time, where no switch can be asked.
    constant: bool,
    /// The match around has an arm for all the rest: without it no other arm can go.
    has_rest: bool,
}

fn switch(number: usize) -> String {
    format!("crate::mutant::on({number})")
}

impl<'a> Weaver<'a> {
    fn range(&self, span: Span) -> (usize, usize) {
        let (start, end) = (span.start(), span.end());
        (self.lines.at(start.line, start.column), self.lines.at(end.line, end.column))
    }

    fn mutants_at(&self, range: (usize, usize), genre: &str) -> Vec<(usize, &'a Mutant)> {
        if self.constant {
            return Vec::new();
        }
        let all = self.by_place.get(&range).into_iter().flatten();
        all.filter(|(_, mutant)| mutant.genre == genre).copied().collect()
    }

    /// Puts text before and after a range; what is inside the range may be woven, too. Of two wraps of the same range
    /// the later one is the outer one, since what is inside is visited first.
    fn wrap(&mut self, (start, end): (usize, usize), before: Vec<(Option<usize>, String)>, after: &str) {
        let turn = self.pieces.len() as isize;
        self.pieces.push(Piece { at: start, rank: (2, -(end as isize), -turn), parts: before });
        self.pieces.push(Piece { at: end, rank: (0, -(start as isize), turn), parts: vec![(None, after.to_owned())] });
    }

    /// `(if on(1) { a - b } else if on(2) { a * b } else { a + b })`
    fn choose(&mut self, range: (usize, usize), branches: Vec<(usize, String)>) {
        if branches.is_empty() {
            return;
        }
        let mut before = vec![(None, "(".to_owned())];
        for (number, branch) in branches {
            before.push((None, format!("if {} {{ ", switch(number))));
            before.push((Some(number), branch));
            before.push((None, " } else ".to_owned()));
        }
        before.push((None, "{ ".to_owned()));
        self.wrap(range, before, " })");
    }

    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) -> bool {
        let outside = self.constant;
        self.constant = signature.constness.is_some();
        // A function that returns an unnamed type can return one only, so another value cannot stand beside the first.
        let unnamed =
            matches!(&signature.output, syn::ReturnType::Type(_, of) if matches!(**of, syn::Type::ImplTrait(_)));
        if let (Some(first), Some(last), false) = (block.stmts.first(), block.stmts.last(), unnamed) {
            let range = (self.range(first.span()).0, self.range(last.span()).1);
            for (number, mutant) in self.mutants_at(range, "FnValue") {
                let parts = vec![
                    (None, format!("if {} {{ ", switch(number))),
                    (Some(number), format!("return {};", mutant.replacement)),
                    (None, " } ".to_owned()),
                ];
                self.pieces.push(Piece { at: range.0, rank: (1, 0, 0), parts });
            }
        }
        outside
    }

    fn constant(&mut self, inside: impl FnOnce(&mut Self)) {
        let outside = std::mem::replace(&mut self.constant, true);
        inside(self);
        self.constant = outside;
    }
}

/// Whether a condition binds names by `let`: then its parts cannot stand alone.
fn binds(expression: &syn::Expr) -> bool {
    match expression {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => binds(&binary.left) || binds(&binary.right),
        _ => false,
    }
}

impl<'ast> Visit<'ast> for Weaver<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        let outside = self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
        self.constant = outside;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        let outside = self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
        self.constant = outside;
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        let outside = item.default.as_ref().map(|block| self.function(&item.sig, block));
        visit::visit_trait_item_fn(self, item);
        self.constant = outside.unwrap_or(self.constant);
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.constant(|inside| visit::visit_item_const(inside, item));
    }

    fn visit_impl_item_const(&mut self, item: &'ast syn::ImplItemConst) {
        self.constant(|inside| visit::visit_impl_item_const(inside, item));
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.constant(|inside| visit::visit_item_static(inside, item));
    }

    fn visit_type_array(&mut self, array: &'ast syn::TypeArray) {
        self.constant(|inside| visit::visit_type_array(inside, array));
    }

    fn visit_expr_repeat(&mut self, repeat: &'ast syn::ExprRepeat) {
        self.visit_expr(&repeat.expr);
        self.constant(|inside| inside.visit_expr(&repeat.len));
    }

    fn visit_expr_binary(&mut self, binary: &'ast syn::ExprBinary) {
        visit::visit_expr_binary(self, binary);
        if binds(&binary.left) || binds(&binary.right) {
            return;
        }
        let (left, right) = (self.range(binary.left.span()), self.range(binary.right.span()));
        let operands = (&self.text[left.0..left.1], &self.text[right.0..right.1]);
        let mutants = self.mutants_at(self.range(binary.op.span()), "BinaryOperator");
        let branches = mutants
            .into_iter()
            .map(|(number, mutant)| (number, format!("({}) {} ({})", operands.0, mutant.replacement, operands.1)));
        self.choose((left.0, right.1), branches.collect());
    }

    fn visit_expr_unary(&mut self, unary: &'ast syn::ExprUnary) {
        visit::visit_expr_unary(self, unary);
        let (whole, operand) = (self.range(unary.span()), self.range(unary.expr.span()));
        let mutants = self.mutants_at(self.range(unary.op.span()), "UnaryOperator");
        let operand = &self.text[operand.0..operand.1];
        self.choose(whole, mutants.into_iter().map(|(number, _)| (number, operand.to_owned())).collect());
    }

    fn visit_expr_match(&mut self, expression: &'ast syn::ExprMatch) {
        let rest = |arm: &syn::Arm| matches!(arm.pat, syn::Pat::Wild(_)) && arm.guard.is_none();
        let outside = std::mem::replace(&mut self.has_rest, expression.arms.iter().any(rest));
        visit::visit_expr_match(self, expression);
        self.has_rest = outside;
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        let has_rest = self.has_rest;
        visit::visit_arm(self, arm);
        let deleted = self.mutants_at(self.range(arm.span()), "MatchArm");
        for (number, _) in deleted.into_iter().filter(|_| has_rest) {
            let at = self.range(arm.pat.span()).1;
            let parts = vec![(Some(number), format!(" if !{}", switch(number)))];
            self.pieces.push(Piece { at, rank: (3, 0, 0), parts });
        }
        let Some((_, guard)) = &arm.guard else { return };
        let range = self.range(guard.span());
        let guards = self.mutants_at(range, "MatchArmGuard");
        if !guards.is_empty() {
            let before = guards.into_iter().map(|(number, mutant)| {
                let on = switch(number);
                (Some(number), if mutant.replacement == "true" { format!("{on} || ") } else { format!("!{on} && ") })
            });
            let mut before: Vec<(Option<usize>, String)> = before.collect();
            // `on(1) || !on(2) && (guard)`: no switch is on but one, so the order of the two does not matter.
            before.sort_by_key(|(_, text)| text.starts_with('!'));
            before.push((None, "(".to_owned()));
            self.wrap(range, before, ")");
        }
    }

    fn visit_expr_struct(&mut self, expression: &'ast syn::ExprStruct) {
        visit::visit_expr_struct(self, expression);
        if expression.rest.is_none() {
            return;
        }
        let path = self.range(expression.path.span());
        for pair in expression.fields.pairs() {
            let field = pair.value();
            let (start, end) = self.range(field.span());
            let end = pair.punct().map_or(end, |comma| self.range(comma.span()).1);
            let mutants = self.mutants_at((start, end), "StructField");
            let syn::Member::Named(name) = &field.member else { continue };
            let rest = format!("<{}>::default().{name}", &self.text[path.0..path.1]);
            let value = self.range(field.expr.span());
            let label = if field.colon_token.is_none() { format!("{name}: ") } else { String::new() };
            if let [(number, _)] = mutants[..] {
                let before = vec![
                    (None, format!("{label}(if {} {{ ", switch(number))),
                    (Some(number), rest),
                    (None, " } else { ".to_owned()),
                ];
                self.wrap(value, before, " })");
            }
        }
    }
}
