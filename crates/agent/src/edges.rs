//! The edges that this device may go to: the one that it was enrolled at, and those that an edge has told it of.
//!
//! What holds: the enrolled edge is always among them; every one has to show a certificate of its own name, by the same
//! authority; the one in use is left only when it fails.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::edge_address::EdgeAddress;
use crate::state::StateDirectory;

/// Edges that are remembered.
const MAX_EDGES: usize = 32;

/// All of them, and the one in use.
#[derive(Debug)]
pub(crate) struct Edges {
    state: Rc<StateDirectory>,
    /// The enrolled one first.
    known: RefCell<Vec<EdgeAddress>>,
    current: Cell<usize>,
}

impl Edges {
    /// The enrolled edge, and what is remembered of others.
    pub(crate) fn load(state: Rc<StateDirectory>, enrolled: EdgeAddress) -> Self {
        let told = match state.edges() {
            Ok(text) => text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%error, "what is known of other edges cannot be read");
                Vec::new()
            }
        };
        Self { state, known: RefCell::new(all(enrolled, told)), current: Cell::new(0) }
    }

    /// The one in use.
    pub(crate) fn current(&self) -> EdgeAddress {
        let known = self.known.borrow();
        // There is always the enrolled one.
        known[self.current.get() % known.len()].clone()
    }

    /// `failed` is of no use now: the next one is to be tried, unless somebody else has turned to it already.
    pub(crate) fn turn_from(&self, failed: &EdgeAddress) {
        if self.current() == *failed {
            self.current.set((self.current.get() + 1) % self.known.borrow().len());
        }
    }

    /// Whether there is another one than the one in use.
    pub(crate) fn are_several(&self) -> bool {
        self.known.borrow().len() > 1
    }

    /// Those that have names, by them: in lower case.
    pub(crate) fn names(&self) -> Vec<String> {
        let known = self.known.borrow();
        let named = known.iter().filter(|edge| edge.address().is_none());
        named.map(|edge| edge.server_name().to_str().to_ascii_lowercase()).collect()
    }

    /// All but the one in use, the next one first.
    pub(crate) fn others(&self) -> Vec<EdgeAddress> {
        let (known, current) = (self.known.borrow(), self.current.get());
        (1..known.len()).map(|step| known[(current + step) % known.len()].clone()).collect()
    }

    /// Uses this one from now on, if it is known.
    pub(crate) fn turn_to(&self, edge: &EdgeAddress) {
        if let Some(place) = self.known.borrow().iter().position(|known| known == edge) {
            self.current.set(place);
        }
    }

    /// An edge tells which there are, as `HOST:PORT`; what cannot be read is passed over. One that names none knows of none, as
    /// a node does that has just started without its database: then what is known stands.
    pub(crate) fn told(&self, edges: &[String]) {
        if edges.is_empty() {
            return;
        }
        let in_use = self.current();
        let enrolled = self.known.borrow()[0].clone();
        let told: Vec<EdgeAddress> = edges.iter().filter_map(|edge| edge.parse().ok()).collect();
        let known = all(enrolled, told);
        if *self.known.borrow() == known {
            return;
        }
        self.current.set(known.iter().position(|edge| *edge == in_use).unwrap_or(0));
        let text = serde_json::to_vec_pretty(&known[1..]).expect("a list of texts");
        if let Err(error) = self.state.set_edges(&text) {
            tracing::warn!(%error, "what is known of other edges cannot be kept");
        }
        self.known.replace(known);
    }
}

fn all(enrolled: EdgeAddress, told: Vec<EdgeAddress>) -> Vec<EdgeAddress> {
    let mut all = vec![enrolled];
    for edge in told {
        if all.len() < MAX_EDGES && !all.contains(&edge) {
            all.push(edge);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_that_fail_are_left_and_those_that_were_told_of_are_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let state = Rc::new(StateDirectory::open(directory.path()).unwrap());
        let edge = |text: &str| text.parse::<EdgeAddress>().unwrap();
        let edges = Edges::load(Rc::clone(&state), edge("https://a.example"));
        edges.turn_from(&edge("a.example"));
        assert_eq!(edges.current(), edge("a.example"), "there is no other");
        edges.told(&["b.example:443".into(), "a.example:443".into(), "not an edge".into()]);
        assert_eq!(edges.current(), edge("a.example"), "the one in use stays");
        edges.turn_from(&edge("a.example"));
        edges.turn_from(&edge("a.example"));
        assert_eq!(edges.current(), edge("b.example"), "it is left once");
        assert_eq!(edges.others(), [edge("a.example")]);
        edges.told(&[]);
        assert_eq!(edges.current(), edge("b.example"), "who knows of none takes nothing back");
        edges.turn_to(&edge("unknown.example"));
        assert_eq!(edges.current(), edge("b.example"));
        edges.told(&["c.example:443".into()]);
        assert_eq!(edges.current(), edge("a.example"), "one that is no more is not in use");
        let again = Edges::load(state, edge("https://a.example"));
        again.turn_from(&edge("a.example"));
        assert_eq!(again.current(), edge("c.example"));
    }
}
