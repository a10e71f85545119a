//! Who may do what: pure functions, one of which every read and write passes.

use crate::Error;
use crate::model::{Acl, ActionKey, Actor, BlobKey, Image, Resource, Service};

/// What a caller wants to do.
#[derive(Debug, Clone, Copy)]
pub enum Action<'a> {
    /// Store a new image.
    Upload,
    /// See an image's bytes.
    View(&'a Image),
    /// See an image's bytes where the operator has switched the permission check off: any member of the org may.
    ViewAsMember(&'a Image),
    /// Change or take an image that one has uploaded oneself.
    Own(&'a Image),
    /// Say something of a stored image, as which place of it should be seen.
    Edit(&'a Image),
    /// Change what belongs to a resource of the caller's org.
    EditResource(&'a Resource),
    /// Ask for named files of the caller's org.
    ReadFiles,
    /// Store, delete and restore named files of the caller's org.
    WriteFiles,
}

/// A right to read these very bytes, proved by a signature of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link(pub BlobKey);

/// Says yes, or why not.
///
/// # Errors
/// [`Error::NotFound`] for what belongs to another org, [`Error::Forbidden`] where the right is lacking.
pub fn check(actor: &Actor, action: Action<'_>) -> Result<(), Error> {
    let allowed = match action {
        Action::View(image) | Action::ViewAsMember(image) | Action::Own(image) | Action::Edit(image)
            if image.org != actor.org =>
        {
            return Err(Error::NotFound);
        }
        Action::Upload => actor.holds(ActionKey::UPLOAD),
        Action::View(image) => actor.holds(image.permission.as_str()),
        Action::ViewAsMember(_) => true,
        Action::Own(image) => image.owner == actor.account || actor.holds(ActionKey::ADMIN),
        Action::Edit(image) => {
            let is_file = image.name.is_some() && actor.holds(ActionKey::FILES_WRITE);
            image.owner == actor.account || actor.holds(ActionKey::ADMIN) || is_file
        }
        Action::EditResource(resource) => {
            is_self(actor, resource) || resource.edit_actions().iter().any(|action| actor.holds(action))
        }
        Action::ReadFiles => actor.holds(ActionKey::FILES_READ),
        Action::WriteFiles => actor.holds(ActionKey::FILES_WRITE),
    };
    if allowed { Ok(()) } else { Err(Error::Forbidden) }
}

/// A user is the resource `users/{login}`, and `users/{id of the account}`.
fn is_self(actor: &Actor, resource: &Resource) -> bool {
    let id = resource.id();
    resource.service == Service::Users && (id.eq_ignore_ascii_case(&actor.login) || id == actor.account.0.to_string())
}

/// Whether somebody who is nobody may see an image's bytes: because it is public, or by a link to them.
///
/// # Errors
/// [`Error::Forbidden`].
pub fn check_visitor(image: &Image, link: Option<&Link>) -> Result<(), Error> {
    let linked = link.is_some_and(|link| link.0 == image.version.blob);
    if linked || image.acl == Acl::Public { Ok(()) } else { Err(Error::Forbidden) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::{AccountId, AppKey, Attribution, Digest, ImageId, Namespace, OrgId, State, Timestamp, Version};

    fn actor(org: i64, actions: &[&str]) -> Actor {
        Actor {
            org: OrgId(org),
            org_name: format!("org-{org}"),
            account: AccountId::mint(),
            login: "ada".into(),
            actions: actions.iter().map(ToString::to_string).collect(),
        }
    }

    pub(crate) fn image(org: i64, permission: &str) -> Image {
        let owner = AccountId::mint();
        Image {
            id: ImageId::mint(),
            org: OrgId(org),
            owner,
            namespace: Namespace::OPSPORTAL_IMAGES,
            name: None,
            app_key: Some(AppKey::parse("crew").expect("valid")),
            permission: ActionKey::parse(permission).expect("valid"),
            acl: Acl::Private,
            state: State::Kept,
            crop: None,
            focus: None,
            latest_number: 1,
            version: Version {
                number: 1,
                blob: BlobKey::from_stored("x/1/y.png".into()),
                size_bytes: 1,
                digest: Digest([0; 32]),
                content_type: "image/png".into(),
                file_name: None,
                facts: None,
                look: None,
                created_by: owner,
                attribution: Attribution::default(),
                created: Timestamp(0),
            },
            created: Timestamp(0),
        }
    }

    /// Rows A5 and A7: every cell of org × held action × operation, against the rule written out longhand.
    #[test]
    fn every_cell_of_the_matrix_is_as_the_rule_says() {
        let holdings: &[&[&str]] =
            &[&[], &["imagewell.upload"], &["crew.view"], &["crew.vie"], &["crew.view.all"], &["imagewell.admin"]];
        let mut cells = 0;
        for org in [1, 2] {
            for actions in holdings {
                let caller = actor(org, actions);
                let admin = actions.contains(&"imagewell.admin");
                let upload = check(&caller, Action::Upload);
                assert_eq!(upload.is_ok(), admin || actions.contains(&"imagewell.upload"), "{org} {actions:?}");
                for permission in ["crew.view", "crew.edit", "imagewell.upload"] {
                    let image = image(1, permission);
                    let member = org == 1;
                    let view = check(&caller, Action::View(&image));
                    assert_eq!(
                        view.is_ok(),
                        member && (admin || actions.contains(&permission)),
                        "{org} {actions:?} {permission}"
                    );
                    assert_eq!(matches!(view, Err(Error::NotFound)), !member, "a foreign org's image looks absent");
                    assert_eq!(check(&caller, Action::ViewAsMember(&image)).is_ok(), member);
                    cells += 3;
                }
            }
        }
        assert_eq!(cells, 108);
    }

    #[test]
    fn named_files_ask_for_their_own_rights() {
        for (held, may_read, may_write) in [
            (&[][..], false, false),
            (&["imagewell.upload"], false, false),
            (&["imagewell.files.read"], true, false),
            (&["imagewell.files.write"], false, true),
            (&["imagewell.files.read", "imagewell.files.write"], true, true),
            (&["imagewell.admin"], true, true),
        ] {
            let caller = actor(1, held);
            assert_eq!(check(&caller, Action::ReadFiles).is_ok(), may_read, "{held:?}");
            assert_eq!(check(&caller, Action::WriteFiles).is_ok(), may_write, "{held:?}");
        }
    }

    #[test]
    fn resources_are_edited_by_themselves_their_editors_and_admins() {
        let resource = |service, id: &str| Resource::new(service, id).expect("id");
        let (own, other) = (resource(Service::Users, "Ada"), resource(Service::Users, "bob"));
        let (app, second_app) = (resource(Service::Apps, "42"), resource(Service::Apps, "43"));
        for (held, expected) in [
            (&[][..], [true, false, false, false]),
            (&["imagewell.upload"], [true, false, false, false]),
            (&["imagewell.apps.42.edit"], [true, false, true, false]),
            (&["imagewell.apps.edit"], [true, false, true, true]),
            (&["imagewell.users.edit"], [true, true, false, false]),
            (&["imagewell.admin"], [true, true, true, true]),
        ] {
            let caller = actor(1, held);
            let may = [&own, &other, &app, &second_app].map(|resource| check(&caller, Action::EditResource(resource)).is_ok());
            assert_eq!(may, expected, "{held:?}");
        }
        let caller = actor(1, &[]);
        let by_id = resource(Service::Users, &caller.account.0.to_string());
        assert!(check(&caller, Action::EditResource(&by_id)).is_ok());
        assert!(check(&caller, Action::EditResource(&resource(Service::Apps, "ada"))).is_err());
    }

    #[test]
    fn what_somebody_uploaded_is_theirs_and_the_admins() {
        let image = image(1, "crew.view");
        let mut owner = actor(1, &[]);
        owner.account = image.owner;
        assert!(check(&owner, Action::Own(&image)).is_ok());
        assert!(check(&actor(1, &["imagewell.admin"]), Action::Own(&image)).is_ok());
        assert!(matches!(check(&actor(1, &["imagewell.upload"]), Action::Own(&image)), Err(Error::Forbidden)));
        owner.org = OrgId(2);
        assert!(matches!(check(&owner, Action::Own(&image)), Err(Error::NotFound)));
    }

    #[test]
    fn a_visitor_sees_what_is_public_or_linked_and_nothing_else() {
        let mut image = image(1, "crew.view");
        let (right, wrong) = (Link(image.version.blob.clone()), Link(BlobKey::from_stored("x/1/z.png".into())));
        assert!(check_visitor(&image, None).is_err());
        assert!(check_visitor(&image, Some(&wrong)).is_err());
        assert!(check_visitor(&image, Some(&right)).is_ok());
        image.acl = Acl::Public;
        assert!(check_visitor(&image, None).is_ok());
    }
}
