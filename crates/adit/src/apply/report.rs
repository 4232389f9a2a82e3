//! What is to be done, as a diff that people read.

use serde_json::Value;

use super::plan::{Deed, Difference, Step};
use crate::manage::print::{self, Colour};

/// The steps: `+` is made, `~` changes, `-` is deleted.
pub(super) fn steps(steps: &[Step], colour: Colour) -> String {
    if steps.is_empty() {
        return "no changes\n".to_owned();
    }
    let mut text = String::new();
    for step in steps {
        let (sign, paint, is_new) = match &step.deed {
            Deed::Create(..) => ('+', GREEN, true),
            Deed::Change(..) => ('~', YELLOW, false),
            Deed::Delete(_) => ('-', RED, false),
        };
        let place = step.place.as_ref().map(|place| format!("   ({place})")).unwrap_or_default();
        let line = format!("{sign} {} {}", step.kind.in_files(), step.name);
        text.extend([&colour.paint(paint, &line), place.as_str(), "\n"]);
        for difference in &step.differences {
            text += &lines(difference, is_new, colour);
        }
    }
    text + &count(steps) + "\n"
}

fn lines(difference: &Difference, is_new: bool, colour: Colour) -> String {
    let side = |sign: char, paint: u8, value: &Value| {
        let mut text = String::new();
        print::member(&mut text, difference.key, value, 0);
        let lines = text.lines().map(|line| colour.paint(paint, &format!("    {sign} {line}")) + "\n");
        lines.collect::<String>()
    };
    let old = difference.old.as_ref().filter(|_| !is_new).map(|old| side('-', RED, old));
    let new = difference.new.as_ref().map(|new| side('+', GREEN, new));
    old.unwrap_or_default() + &new.unwrap_or_default()
}

/// How many of each.
pub(super) fn count(steps: &[Step]) -> String {
    let of = |is: fn(&Deed) -> bool| steps.iter().filter(|step| is(&step.deed)).count();
    format!(
        "{} to create, {} to change, {} to delete",
        of(|deed| matches!(deed, Deed::Create(..))),
        of(|deed| matches!(deed, Deed::Change(..))),
        of(|deed| matches!(deed, Deed::Delete(_)))
    )
}

const RED: u8 = 31;
const GREEN: u8 = 32;
const YELLOW: u8 = 33;
