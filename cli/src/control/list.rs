//! The list of requests: the server's router and the document's table are made from it.

use super::request::Request;
use super::requests::{
    Alias, Collect, Engine, Engines, Fates, KeyOf, Keys, Latest, Mount, Payload, Pin, Publishing,
    Records, Reload, Remove, Rollback, SetDefault, StatusRequest, Tidy, Users, VersionAt, Versions,
};

/// Whoever makes something of every request.
pub trait Visitor {
    /// Is called for each, in the order of the document.
    fn visit<R: Request>(&mut self);
}

/// Shows every request to `visitor`.
pub fn visit_all(visitor: &mut impl Visitor) {
    visitor.visit::<StatusRequest>();
    visitor.visit::<Reload>();
    visitor.visit::<Mount>();
    visitor.visit::<Keys>();
    visitor.visit::<KeyOf>();
    visitor.visit::<Versions>();
    visitor.visit::<VersionAt>();
    visitor.visit::<Latest>();
    visitor.visit::<Engines>();
    visitor.visit::<Engine>();
    visitor.visit::<Payload>();
    visitor.visit::<Users>();
    visitor.visit::<Publishing>();
    visitor.visit::<Rollback>();
    visitor.visit::<Remove>();
    visitor.visit::<SetDefault>();
    visitor.visit::<Alias>();
    visitor.visit::<Pin>();
    visitor.visit::<Fates>();
    visitor.visit::<Collect>();
    visitor.visit::<Tidy>();
    visitor.visit::<Records>();
}
