/*
 * Where the agent is entered.
 *
 * agent_entry: rdi = batch, r15 = where to go afterwards. The stack is the agent's own.
 */
	.section .entry, "ax"
	.globl agent_entry
agent_entry:
	xor %ebp, %ebp
	call agent_run
	jmp *%r15
	.section .note.GNU-stack, "", @progbits
