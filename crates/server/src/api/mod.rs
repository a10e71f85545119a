//! The APIs, one folder each: routes, wire types and the face of their errors. None names another.

pub mod dropbox;
pub mod file_service;
pub mod native;
pub mod opsportal;
pub mod problem;
pub mod s3;
