//! Node trees: expressions of policies and indexes, copied from the server's relation cache.

use pgrx::{PgList, pg_sys};

/// An expression, as far as the extension reads it. It is a copy, because the server frees its own tree with the relation.
#[derive(Debug, PartialEq, Eq)]
pub enum Expression {
    /// The constant true.
    True,
    /// A column of the relation, by number. A cast between types that are stored alike is left out.
    Column(i16),
    /// A call of a function.
    Call(pg_sys::Oid, Vec<Expression>),
    /// An operator, by the function behind it.
    Operator(pg_sys::Oid, Vec<Expression>),
    Other,
}

impl Expression {
    /// Copies an expression.
    ///
    /// # Safety
    /// The node is a whole expression.
    pub(super) unsafe fn of(node: *const pg_sys::Node) -> Self {
        // SAFETY: a node's tag says its type. An operator that a policy or an index depends on exists.
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

    /// Copies each expression of a list.
    ///
    /// # Safety
    /// The list is NULL or holds whole expressions.
    pub(super) unsafe fn of_each(list: *mut pg_sys::List) -> Vec<Self> {
        // SAFETY: the caller's duty; nothing changes the list meanwhile.
        unsafe { PgList::<pg_sys::Node>::from_pg(list).iter_ptr().map(|node| Self::of(node)).collect() }
    }
}
