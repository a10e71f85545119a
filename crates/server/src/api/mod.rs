//! The APIs, one folder each: routes, wire types and the face of their errors. None names another.

pub mod opsportal;
pub mod problem;
