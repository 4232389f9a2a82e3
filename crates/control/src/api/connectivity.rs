//! Connectivity settings of an account (contract D, 6.6): `A/zerotrust/connectivity_settings`.
//!
//! They say what is so, and nothing decides by them yet: ICMP is carried, and devices do not reach each other. What would
//! have to be otherwise is refused, not kept.

use super::Call;
use super::answer::{Kind, object};
use super::body::Family;
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::operation::Operation;
use crate::permission::{Area, Level};

/// Whether devices reach private networks by ICMP.
const ICMP: bool = true;
/// Whether devices reach each other.
const DEVICES: bool = false;

const PATH: &str = "/accounts/{account}/zerotrust/connectivity_settings";
const CHANGE: &[Field] = &[
    Field::optional("icmp_proxy_enabled", Shape::Flag),
    Field::optional("offramp_warp_enabled", Shape::Flag),
];

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::get(PATH, "Get what devices can reach besides", |_call| {
        Box::pin(std::future::ready(Ok(Reply::One(object()))))
    })
    .needs(Area::ZeroTrust, Level::Read)
    .answers(SETTINGS),
    Operation::patch(
        PATH,
        "Change what devices can reach besides: refused, if it would be otherwise",
        |call| Box::pin(std::future::ready(change(call))),
    )
    .needs(Area::ZeroTrust, Level::Write)
    .body(Family::Network, CHANGE)
    .answers(SETTINGS),
];

fn change(call: &Call<'_>) -> Result<Reply, ApiError> {
    let fields = call.fields(Family::Network)?;
    for (name, is, why) in [
        ("icmp_proxy_enabled", ICMP, "true: ICMP cannot be switched off yet, but by a rule of the l4 filter"),
        ("offramp_warp_enabled", DEVICES, "false: devices do not reach each other yet"),
    ] {
        if fields.flag(name)?.is_some_and(|wanted| wanted != is) {
            return Err(fields.wrong(name, why));
        }
    }
    Ok(Reply::One(object()))
}

object! {
    FIELDS = object() [
        "icmp_proxy_enabled": Kind::Flag => ICMP,
        "offramp_warp_enabled": Kind::Flag => DEVICES,
    ]
}

const SETTINGS: Kind = Kind::Object("ConnectivitySettings", FIELDS, &[]);
