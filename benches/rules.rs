//! Medians of the rule table's look-ups.

fn main() {
    divan::main();
}
