//! Node trees: expressions that the catalogs hold.

use pgrx::{PgList, pg_sys};

/// What the extension reads of an expression. It is a copy: the server's own tree goes with the relation that it belongs to.
#[derive(Debug, PartialEq, Eq)]
pub enum Expression {
    /// The constant true.
    True,
    /// A column of the relation, by number. A cast to a type of the same form is left out.
    Column(i16),
    /// A call of a function.
    Call(pg_sys::Oid, Vec<Expression>),
    /// An operator, by the function behind it.
    Operator(pg_sys::Oid, Vec<Expression>),
    Other,
}

impl Expression {
    /// # Safety
    /// The node is a whole expression.
    pub(super) unsafe fn of(node: *const pg_sys::Node) -> Self {
        // SAFETY: what a node is, its tag says. An operator that the catalogs use exists.
        unsafe {
            match (*node).type_ {
                pg_sys::NodeTag::T_Var => Self::Column((*node.cast::<pg_sys::Var>()).varattno),
                pg_sys::NodeTag::T_RelabelType => match Self::of((*node.cast::<pg_sys::RelabelType>()).arg.cast()) {
                    Self::Column(column) => Self::Column(column),
                    _ => Self::Other,
                },
                pg_sys::NodeTag::T_FuncExpr => {
                    let call = node.cast::<pg_sys::FuncExpr>();
                    Self::Call((*call).funcid, Self::of_each((*call).args))
                }
                pg_sys::NodeTag::T_OpExpr => {
                    let operator = node.cast::<pg_sys::OpExpr>();
                    Self::Operator(pg_sys::get_opcode((*operator).opno), Self::of_each((*operator).args))
                }
                pg_sys::NodeTag::T_Const => {
                    let constant = node.cast::<pg_sys::Const>();
                    let is_true = (*constant).consttype == pg_sys::BOOLOID
                        && !(*constant).constisnull
                        && (*constant).constvalue.value() != 0;
                    if is_true { Self::True } else { Self::Other }
                }
                _ => Self::Other,
            }
        }
    }

    /// # Safety
    /// The list is null or one of whole expressions.
    pub(super) unsafe fn of_each(list: *mut pg_sys::List) -> Vec<Self> {
        // SAFETY: the caller's duty; nothing changes the list meanwhile.
        unsafe { PgList::<pg_sys::Node>::from_pg(list).iter_ptr().map(|node| Self::of(node)).collect() }
    }
}
