//! Who may do what: one pure function that every read and write passes.

use crate::Error;
use crate::model::{ActionKey, Actor, Image};

/// What a caller wants to do.
#[derive(Debug, Clone, Copy)]
pub enum Action<'a> {
    /// Store a new image.
    Upload,
    /// See an image's bytes.
    View(&'a Image),
    /// See an image's bytes where the operator has switched the permission check off: any member of the org may.
    ViewAsMember(&'a Image),
}

/// Says yes, or why not.
///
/// # Errors
/// [`Error::NotFound`] for what belongs to another org, [`Error::Forbidden`] where the right is lacking.
pub fn check(actor: &Actor, action: Action<'_>) -> Result<(), Error> {
    match action {
        Action::Upload if actor.holds(ActionKey::UPLOAD) => Ok(()),
        Action::View(image) | Action::ViewAsMember(image) if image.org != actor.org => Err(Error::NotFound),
        Action::ViewAsMember(_) => Ok(()),
        Action::View(image) if actor.holds(image.permission.as_str()) => Ok(()),
        Action::Upload | Action::View(_) => Err(Error::Forbidden),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AccountId, AppKey, BlobKey, Digest, ImageId, Namespace, OrgId, State, Timestamp, Version};

    fn actor(org: i64, actions: &[&str]) -> Actor {
        Actor {
            org: OrgId(org),
            account: AccountId::mint(),
            login: "ada".into(),
            actions: actions.iter().map(ToString::to_string).collect(),
        }
    }

    fn image(org: i64, permission: &str) -> Image {
        let owner = AccountId::mint();
        Image {
            id: ImageId::mint(),
            org: OrgId(org),
            owner,
            namespace: Namespace::OpsportalImages,
            app_key: AppKey::parse("crew").expect("valid"),
            permission: ActionKey::parse(permission).expect("valid"),
            state: State::Kept,
            latest: Version {
                number: 1,
                blob: BlobKey::from_stored("x/1/y.png".into()),
                size_bytes: 1,
                digest: Digest([0; 32]),
                content_type: "image/png".into(),
                file_name: None,
                facts: None,
                created_by: owner,
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
}
