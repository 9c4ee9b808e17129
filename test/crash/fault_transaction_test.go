package crash

var transactionFaults []fault

var fakeTransactionFaults []fault
