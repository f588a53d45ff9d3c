#pragma once

#define NS_KINDS_MAX 16 /* there is room for in dumps and restores; table.c has them */
