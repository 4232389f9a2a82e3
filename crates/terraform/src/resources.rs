//! The resources: each file is one kind of object, under 2022's names and attributes and under today's.
//!
//! What holds: each generation makes the calls that its provider makes (contract D, 14.1 and 14.2), in their order, so that
//! a state may move between providers. `adit_…` are today's attributes under names of our own.

mod hostname_route;
mod list;
mod network;
mod route;
mod rule;
mod service_token;
mod tunnel;

use crate::schema::Resource;

/// Every resource there is.
pub static RESOURCES: &[&Resource] = &[
    &tunnel::OLD,
    &tunnel::NEW,
    &route::OLD,
    &route::NEW,
    &hostname_route::NEW,
    &network::OLD,
    &network::NEW,
    &list::OLD,
    &list::NEW,
    &rule::OLD,
    &rule::NEW,
    &service_token::OLD,
    &service_token::NEW,
];

/// The resource of this type name.
pub fn resource(name: &str) -> Option<&'static Resource> {
    RESOURCES.iter().copied().find(|resource| resource.names.contains(&name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_name_is_there_once_and_every_path_names_attributes() {
        let mut seen = BTreeSet::new();
        for resource in RESOURCES {
            assert!(resource.names.iter().all(|name| seen.insert(*name)), "{:?} twice", resource.names);
            let steps = [resource.create, resource.read, resource.update, resource.delete, resource.adopt];
            for step in steps.into_iter().flatten() {
                for name in step.path.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
                    assert!(resource.attribute(name).is_some(), "{}: no {name}", step.path);
                }
            }
        }
    }
}
